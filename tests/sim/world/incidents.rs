//! Members that come and go within milliseconds of what happens to a broker that they need: while a coordinator is
//! killed, cut off, stopped or replaced, or whoever leads what they read, or the controller.
//!
//! Members come and go in every seed, and brokers die in most of them, but by themselves the two hardly ever meet: what
//! is under way when a coordinator ends is then nothing, or a commit.

use thalweg_model::TopicPartition;

use super::members::OFFSETS;
use super::{METADATA, World, name};

/// What is about to happen to the broker that leads `group` by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incident {
    at_ms: u64,
    group: TopicPartition,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Kill,
    PowerCut,
    CutOff,
    Stop,
    /// Its leadership goes to another broker, and nobody dies.
    Transfer,
}

impl World {
    /// One millisecond: something happens that was planned, or something is planned.
    pub(super) fn incidents_turn(&mut self) -> Result<(), String> {
        let now_ms = self.now_ms;
        if let Some(incident) = self.incident.take_if(|i| i.at_ms <= now_ms) {
            self.happens(incident)?;
        }
        if self.incident.is_some() || !self.schedule.chance(self.rates.joins) {
            return Ok(());
        }
        let schedule = &mut self.schedule;
        let within_ms = [2, 10, 40, 200][schedule.below(4) as usize];
        let group = match schedule.below(10) {
            0..=6 => OFFSETS,
            7 => METADATA,
            _ => name(schedule.below(self.partitions as u64) as u32),
        };
        let what = [What::Kill, What::PowerCut, What::CutOff, What::Stop, What::Transfer][schedule.below(5) as usize];
        let at_ms = now_ms + schedule.below(within_ms);
        let Some(members) = &mut self.members else { return Ok(()) };
        members.come_and_go(now_ms, within_ms);
        self.incident = Some(Incident { at_ms, group, what });
        self.note(|| format!("members come and go within {within_ms} ms, {what:?} at {at_ms}"));
        Ok(())
    }

    fn happens(&mut self, Incident { group, what, .. }: Incident) -> Result<(), String> {
        let Some(node) = self.leader(group).filter(|n| self.is_running(*n)) else { return Ok(()) };
        let for_ms = 100 + self.schedule.below(2_500);
        match what {
            What::Kill => self.crash(node, false, false),
            What::PowerCut => self.crash(node, true, false),
            What::CutOff => self.cut_off(node, for_ms),
            What::Stop => self.stop(node, for_ms),
            What::Transfer => {
                let now = self.now_at(node);
                self.nodes[node].core.as_mut().expect("it leads").replicas_mut().transfer(now, group, None);
                self.outputs(node)?;
            }
        }
        Ok(())
    }
}
