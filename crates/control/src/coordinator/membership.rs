//! Joins, heartbeats and leaves of members. Which partitions they get is left to `share`.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_model::limits::{GROUP_GONE_MAX, GROUP_ID_BYTES_MAX, GROUP_MEMBERS_MAX, SESSION_MS_MAX, SESSION_MS_MIN};
use thalweg_model::{Bug, is_planted};

use super::Clock;
use super::draft::Draft;
use super::error::{GroupError, check_id, check_topics, describe, range};
use super::record::{GroupRecord, Holding, Member, SecretDigest};
use super::request::{GroupAnswer, Join};
use super::share::sorted;
use crate::metadata::Metadata;

impl Draft<'_> {
    pub(super) fn join(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        group: String,
        member: String,
        join: Join,
    ) -> Result<GroupAnswer, GroupError> {
        check(&group, &member, &join)?;
        self.check_room(&group)?;
        let mut gone = BTreeSet::new();
        for (id, secret) in &join.gone {
            match self.prove(&group, id, *secret) {
                Ok(_) => drop(gone.insert(id.clone())),
                Err(GroupError::UnknownMember { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let there = self.group(&group);
        let others = there.map_or(0, |g| g.members.len() - gone.len());
        if there.is_some_and(|g| g.members.contains_key(&member)) {
            return Err(GroupError::MemberIdInUse { group, member });
        }
        if others >= GROUP_MEMBERS_MAX {
            let (found, max) = (others as u64 + 1, GROUP_MEMBERS_MAX as u64);
            return Err(GroupError::Range { what: "the number of members", found, min: 1, max });
        }
        if let Some(g) = there.filter(|g| others > 0 && g.terms != join.terms) {
            let (there, wanted) = (describe(&g.terms), describe(&join.terms));
            return Err(GroupError::TermsDiffer { group, there, wanted });
        }
        let same =
            |(id, m): &(&String, &Member)| m.instance.is_some() && m.instance == join.instance && !gone.contains(*id);
        let predecessor = there.and_then(|g| g.members.iter().find(same)).map(|(id, m)| (id.clone(), m.clone()));
        if let Some((id, m)) = predecessor.as_ref().filter(|(_, m)| !m.is_away && !is_planted(Bug::StaticNameTaken)) {
            return Err(GroupError::InstanceInUse {
                group,
                instance: join.instance.unwrap_or_default(),
                member: id.clone(),
                host: m.host.clone(),
                session_ms: m.session_ms,
            });
        }
        let epoch = there.map_or(0, |g| g.epoch) + 1;
        let leaves = |member: String| GroupRecord::MemberGone { group: group.clone(), member, at_ms: now.noted_ms };
        let mut records: Vec<GroupRecord> = gone.into_iter().map(leaves).collect();
        if there.is_none_or(|g| g.terms != join.terms) {
            let (group, terms) = (group.clone(), join.terms);
            records.push(GroupRecord::GroupChanged { group, epoch, terms, idle_since_ms: now.noted_ms });
        }
        let topics = sorted(join.topics);
        // A static member gets the target of the member that had its name before.
        let before = predecessor.map(|(id, m)| {
            records.push(GroupRecord::MemberGone { group: group.clone(), member: id, at_ms: now.noted_ms });
            m
        });
        let state = Member {
            secret: join.secret,
            instance: join.instance,
            client: join.client,
            host: join.host,
            topics,
            session_ms: join.session_ms,
            epoch,
            is_away: false,
            target: before.map(|m| m.target).unwrap_or_default(),
            holdings: BTreeMap::new(),
        };
        records.push(GroupRecord::MemberChanged { group: group.clone(), member: member.clone(), state });
        records.into_iter().for_each(|record| self.take(record));
        self.share_out(metadata, &group);
        let (g, m) = self.find(&group, &member)?;
        let answer = GroupAnswer::Assigned(g.assignment(metadata, m));
        self.hear(group, member);
        Ok(answer)
    }

    pub(super) fn heartbeat(
        &mut self,
        metadata: &Metadata,
        (group, member): (String, String),
        secret: SecretDigest,
        epoch: u32,
        topics: Option<Vec<String>>,
    ) -> Result<GroupAnswer, GroupError> {
        let (_, m) = self.prove(&group, &member, secret)?;
        topics.as_deref().map_or(Ok(()), check_topics)?;
        if epoch > m.epoch {
            return Err(GroupError::UnknownMember { group, member });
        }
        let any = is_planted(Bug::AnyEpochConfirms);
        let up_to = if is_planted(Bug::NextEpochConfirmed) { epoch + 1 } else { epoch };
        let confirms = |h: &Holding| h.revoked_by.is_some_and(|by| by <= up_to || any);
        if m.holdings.values().any(confirms) {
            let mut state = m.clone();
            state.holdings.retain(|_, h| !confirms(h));
            self.take(GroupRecord::MemberChanged { group: group.clone(), member: member.clone(), state });
            self.hand_out(&group);
        }
        let (_, m) = self.find(&group, &member)?;
        let wanted = topics.map(sorted).filter(|topics| *topics != m.topics && !is_planted(Bug::TopicsNotFollowed));
        if let Some(topics) = wanted {
            let state = Member { topics, ..m.clone() };
            self.take(GroupRecord::MemberChanged { group: group.clone(), member: member.clone(), state });
            self.share_out(metadata, &group);
        }
        let (g, m) = self.find(&group, &member)?;
        let answer = GroupAnswer::Assigned(g.assignment(metadata, m));
        self.hear(group, member);
        Ok(answer)
    }

    pub(super) fn leave(
        &mut self,
        now: Clock,
        metadata: &Metadata,
        (group, member): (String, String),
        secret: SecretDigest,
        is_for_a_moment: bool,
    ) -> Result<GroupAnswer, GroupError> {
        let (_, m) = self.prove(&group, &member, secret)?;
        if is_for_a_moment && m.instance.is_some() {
            let state = Member { is_away: true, ..m.clone() };
            self.take_last(GroupRecord::MemberChanged { group: group.clone(), member: member.clone(), state });
            self.hear(group, member);
            return Ok(GroupAnswer::Left);
        }
        self.take(GroupRecord::MemberGone { group: group.clone(), member, at_ms: now.noted_ms });
        self.share_out(metadata, &group);
        Ok(GroupAnswer::Left)
    }
}

/// The limits of what a member asks for when it joins.
fn check(group: &str, member: &str, join: &Join) -> Result<(), GroupError> {
    check_id("group id", group)?;
    check_id("member id", member)?;
    join.instance.as_deref().map_or(Ok(()), |i| check_id("instance id", i))?;
    check_topics(&join.topics)?;
    for (what, text) in [("client name", &join.client), ("host", &join.host)] {
        if text.len() > GROUP_ID_BYTES_MAX {
            return Err(GroupError::Id { what, found: text.len(), limit: GROUP_ID_BYTES_MAX });
        }
    }
    range("the number of members that have gone", join.gone.len() as u64, (0, GROUP_GONE_MAX as u64))?;
    range("the session timeout in ms", join.session_ms as u64, (SESSION_MS_MIN as u64, SESSION_MS_MAX as u64))
}
