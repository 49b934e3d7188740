//! A machine that is as small as one can be, over a log with one replica: what is left to its runtime.

use thalweg_commit_log::MemoryDisk;
use thalweg_model::{BrokerId, ReplicaId};
use thalweg_replica::{Output, PartitionSettings};

use super::*;
use crate::bench::{DIRECTORY, NAME, WALL_MS, log};

/// Adds up what it is asked to; 0 only asks for the sum, and 13 is refused.
#[derive(Default)]
struct Sum<const AHEAD: bool>(u64);

impl<const AHEAD: bool> Machine for Sum<AHEAD> {
    const PACE: Pace = if AHEAD { Pace::RunsAhead } else { Pace::Follows };
    type Request = u64;
    type Record = u64;
    type Answer = u64;
    type Refusal = &'static str;
    type Note = ();
    type At<'a> = ();

    fn handle(&self, _at: (), request: u64) -> Result<Decision<u64, u64, ()>, &'static str> {
        let records = if request > 0 { vec![request] } else { Vec::new() };
        if request == 13 { Err("unlucky") } else { Ok(Decision { records, answer: self.0 + request, note: () }) }
    }

    fn apply(&mut self, record: &u64) {
        self.0 += record;
    }

    fn encode(record: &u64) -> (Option<Bytes>, Bytes) {
        (None, record.to_le_bytes().to_vec().into())
    }

    fn decode(value: &[u8]) -> Result<u64, String> {
        value.try_into().map(u64::from_le_bytes).map_err(|_| "eight bytes are expected".to_owned())
    }
}

enum Step {
    /// Requests of one turn of the loop.
    Ask(&'static [u64]),
    /// The disk does all that it was asked for.
    Sync,
    /// The log is applied as far as it can be read.
    Follow,
    /// This broker does not lead any more.
    Depose,
}

use Step::{Ask, Depose, Follow, Sync};

struct Play<const AHEAD: bool> {
    replicas: Replicas<MemoryDisk>,
    now: Now,
    last_ticket: u64,
    led: Led<Sum<AHEAD>>,
    answers: Vec<Answered<Sum<AHEAD>>>,
}

impl<const AHEAD: bool> Play<AHEAD> {
    fn new() -> Play<AHEAD> {
        let mut now = Now { mono_ms: 0, wall_ms: WALL_MS };
        let (mut replicas, _) =
            Replicas::open(MemoryDisk::empty(), DIRECTORY, log()).expect("an empty directory opens");
        replicas.set_room(now, 1 << 40);
        let replica = ReplicaId::new(BrokerId(1), 0);
        let (first_voters, target) = (vec![replica], vec![replica]);
        replicas.start(now, NAME, PartitionSettings { replica, first_voters, target, ..Default::default() });
        let led = Led::new(NAME, Offset(0), 1 << 20);
        let mut play = Play { replicas, now, last_ticket: 0, led, answers: Vec::new() };
        for _ in 0..100 {
            now.mono_ms += 50;
            play.now = now;
            play.replicas.tick(now);
            play.step(&Sync);
        }
        assert!(play.replicas.state(&NAME).is_some_and(|s| s.is_serving), "it elects itself");
        play
    }

    fn step(&mut self, step: &Step) {
        match step {
            Ask(requests) => {
                let mut turn = Turn::default();
                for request in *requests {
                    let _ = self.led.decide((), &mut turn, Some(Ticket::Shell(*request)), *request);
                }
                let (now, replicas, last_ticket) = (self.now, &mut self.replicas, &mut self.last_ticket);
                self.led.finish(&mut Surroundings { now, replicas, last_ticket }, turn, &mut self.answers);
                self.take();
            }
            Sync => {
                self.replicas.pump(self.now);
                while let Some(done) = self.replicas.log_mut().disk_mut().step_any() {
                    self.replicas.complete(self.now, done);
                    self.take();
                    self.replicas.pump(self.now);
                }
                self.take();
            }
            Follow => {
                self.led.follow(&mut self.replicas, |_| {}).expect("the log can be read");
                self.led.answer_applied(&mut self.answers);
            }
            Depose => self.led.abandon(&ProduceError::NotLeader { leader: None }, &mut self.answers),
        }
    }

    fn take(&mut self) {
        for output in self.replicas.take_outputs() {
            match output {
                Output::Produced(ticket, Ok(offset)) => {
                    self.led.produced(self.now, &mut self.replicas, (ticket, offset), &mut self.answers);
                }
                Output::Confirmed(ticket, Ok(_)) => self.led.confirmed(ticket, &mut self.answers),
                _ => {}
            }
        }
    }
}

/// Plays a script; each step stands with the answers that leave in it, in order, and the last one's state is what a
/// replay of the log gives.
#[track_caller]
fn check<const AHEAD: bool>(script: &[(Step, &str)]) {
    let mut play = Play::<AHEAD>::new();
    for (at, (step, expected)) in script.iter().enumerate() {
        play.step(step);
        let answers = play.answers.drain(..).map(|(_, answer)| match answer {
            Ok(sum) => sum.to_string(),
            Err(Unanswered::Refused(why)) => why.to_owned(),
            Err(Unanswered::Log(_)) => "unknown".to_owned(),
            Err(Unanswered::Busy(_)) => "busy".to_owned(),
        });
        assert_eq!(answers.collect::<Vec<_>>().join(" "), *expected, "step {at}");
    }
    play.step(&Sync);
    if !AHEAD {
        play.step(&Follow);
    }
    let mut replayed = Led::<Sum<AHEAD>>::new(NAME, Offset(0), 1 << 20);
    assert!(replayed.follow(&mut play.replicas, |_| {}).expect("the log can be read"));
    assert_eq!(replayed.machine().0, play.led.machine().0);
}

#[test]
fn a_machine_that_runs_ahead_builds_on_what_it_has_decided_and_answers_once_that_is_on_the_quorum() {
    check::<true>(&[(Ask(&[1, 2, 0]), ""), (Sync, "1 3 3"), (Ask(&[4]), ""), (Ask(&[0]), ""), (Sync, "7 7")]);
    check::<true>(&[(Ask(&[5, 13]), ""), (Sync, "5 unlucky"), (Ask(&[0]), "5")]);
}

#[test]
fn a_machine_that_follows_answers_once_its_records_are_applied_and_at_once_without_records() {
    check::<false>(&[(Ask(&[1]), ""), (Sync, ""), (Follow, "1"), (Ask(&[0]), "1"), (Ask(&[13]), "unlucky")]);
    check::<false>(&[(Ask(&[2]), ""), (Follow, ""), (Ask(&[0]), "0"), (Sync, ""), (Follow, "2"), (Ask(&[0]), "2")]);
}

/// What was decided and is not on the quorum may happen all the same, as it does here.
#[test]
fn whoever_waits_for_a_machine_that_is_deposed_is_answered() {
    check::<true>(&[(Ask(&[1]), ""), (Ask(&[0]), ""), (Depose, "unknown unknown"), (Sync, "")]);
    check::<false>(&[(Ask(&[1]), ""), (Depose, "unknown"), (Sync, "")]);
}
