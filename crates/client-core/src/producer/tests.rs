//! Unit tests of batching, numbers and retries, one partition at a time. Brokers and faults are left to `tests/sim`.

use thalweg_model::assert_finds;

use super::*;

fn record() -> Record {
    Record { key: None, value: Some(vec![1; 100].into()), headers: vec![], timestamp_ms: 0 }
}

fn producer(batch_bytes: usize) -> ProducerCore<u32> {
    let mut p = ProducerCore::new(ProducerConfig { batch_bytes, ..Default::default() }, 1);
    p.identify(ProducerIdentity { id: ProducerId(9), epoch: ProducerEpoch(0), token: ProducerToken([9; 16]) });
    p.connected(0);
    p
}

fn sequence(r: &Request) -> (i16, i32) {
    let mark = r.batch.header().producer.unwrap();
    (mark.epoch.0, mark.base_sequence.0)
}

fn error(code: ErrorCode) -> ApiError {
    ApiError::new(code, "said the broker")
}

#[test]
fn a_lone_record_does_not_linger_and_others_gather_behind_it() {
    let mut p = producer(1 << 20);
    p.push(0, 0, &record(), 1);
    let first = p.poll(0, false);
    assert_eq!(first.len(), 1);
    p.push(1, 0, &record(), 2);
    p.push(2, 0, &record(), 3);
    assert!(p.poll(2, false).is_empty());
    p.answered(3, first[0].id, Ok(0), 0);
    let second = p.poll(3, false);
    assert_eq!((second.len(), second[0].batch.records_count()), (1, 2));
    assert_eq!(sequence(&second[0]), (0, 1));
    p.push(4, 0, &record(), 4);
    assert!(p.poll(8, false).is_empty());
    assert_eq!(p.deadline_ms(), Some(9));
    assert_eq!(p.poll(9, false).len(), 1);
}

#[test]
fn a_lost_connection_sends_everything_again_under_the_same_numbers() {
    let mut p = producer(150);
    for i in 0..3 {
        p.push(0, 0, &record(), i);
    }
    let sent = p.poll(0, true);
    assert_eq!(sent.iter().map(sequence).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2)]);
    p.answered(1, sent[0].id, Ok(7), 0);
    p.disconnected(0, "cable");
    assert!(p.poll(2, false).is_empty());
    p.connected(0);
    let again = p.poll(3, false);
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), [(0, 1), (0, 2)]);
    let outcomes = p.take_outcomes();
    assert_eq!((outcomes.len(), &outcomes[0].result), (1, &Ok(Some(7))));
}

#[test]
fn what_was_in_the_way_before_an_answer_is_no_reason_for_a_later_time_out() {
    let mut p = producer(150);
    p.push(0, 0, &record(), 1);
    p.disconnected(0, "cable");
    p.connected(0);
    let sent = p.poll(1, true);
    p.answered(2, sent[0].id, Ok(0), 0);
    p.push(3, 0, &record(), 2);
    assert_eq!(p.poll(3, true).len(), 1);
    p.poll(120_003, true);
    let results: Vec<_> = p.take_outcomes().into_iter().map(|outcome| outcome.result).collect();
    assert_eq!(results, [Ok(Some(0)), Err(Failure::TimedOut(None))]);
}

#[test]
fn a_retriable_error_waits_for_all_answers_then_keeps_the_order() {
    let mut p = producer(150);
    for i in 0..3 {
        p.push(0, 0, &record(), i);
    }
    let sent = p.poll(0, true);
    p.answered(1, sent[0].id, Err(error(ErrorCode::Backlog)), 0);
    assert!(p.poll(100, false).is_empty(), "two answers are still to come");
    p.answered(101, sent[1].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    p.answered(101, sent[2].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    let again = p.poll(p.deadline_ms().unwrap(), false);
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn behind_a_batch_that_is_given_up_the_next_ones_get_a_new_epoch_only_on_the_brokers_word() {
    let mut p = producer(150);
    p.push(0, 0, &record(), 0);
    let sent = p.poll(0, true);
    p.disconnected(0, "cable");
    p.push(60_000, 0, &record(), 1);
    p.connected(0);
    let again = p.poll(60_000, true);
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
    p.disconnected(0, "cable");
    assert!(p.poll(120_000, false).is_empty());
    let outcomes = p.take_outcomes();
    assert_eq!(outcomes[0].result, Err(Failure::TimedOut(Some("cable".into()))));
    p.connected(0);
    // The second may have been appended: its number stays until the broker says that there is a gap before it.
    let again = p.poll(120_001, false);
    assert_eq!(sequence(&again[0]), (0, 1));
    p.answered(120_002, again[0].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    let last = p.poll(120_010, false);
    assert_eq!(sequence(&last[0]), (1, 0));
    let _ = sent;
}

#[test]
fn records_placed_with_an_old_pin_are_handed_back_once_the_fate_of_all_is_known() {
    let mut p = producer(150);
    p.placed_anew(1, p.partitions());
    for i in 0..4 {
        p.push(7, 0, &record(), i);
    }
    let sent = p.poll(7, true);
    assert!(sent.iter().all(|r| r.pin_epoch == 1));
    p.answered(8, sent[0].id, Ok(0), 0);
    p.answered(8, sent[1].id, Err(error(ErrorCode::StalePin)), 0);
    assert!(p.is_stale() && !p.is_settled(), "two answers are still to come");
    p.push(8, 0, &record(), 4);
    assert!(p.poll(100, true).is_empty(), "nothing new is sent with the old pin");
    p.answered(9, sent[2].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    p.disconnected(0, "cable");
    p.connected(0);
    // The last one may have been appended: it is asked for again, under its number.
    let again = p.poll(200, true);
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), [(0, 3)]);
    assert!(!p.is_settled());
    p.answered(201, again[0].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    assert!(p.is_settled() && !p.is_drained());
    let unplaced = p.take_unplaced();
    assert_eq!(unplaced.iter().map(|u| (u.token, u.since_ms)).collect::<Vec<_>>(), [(1, 7), (2, 7), (3, 7), (4, 8)]);
    p.placed_anew(2, p.partitions());
    for u in unplaced {
        p.push(u.since_ms, 0, &u.record, u.token);
    }
    let anew = p.poll(201, true);
    assert_eq!(anew.iter().map(sequence).collect::<Vec<_>>(), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    assert!(anew.iter().all(|r| r.pin_epoch == 2));
    for r in &anew {
        p.answered(202, r.id, Ok(1), 0);
    }
    assert!(p.is_drained());
    assert_eq!(p.buffered_bytes(), 0);
}

#[test]
fn what_waits_when_a_topic_grows_is_placed_among_all_its_partitions() {
    let mut p = producer(150);
    p.placed_anew(1, p.partitions());
    (0..4).for_each(|i| p.push(0, 0, &record(), i));
    let sent = p.poll(0, true);
    assert_eq!(sent.len(), 4);
    // What was appended stays; what was refused for its pin, and what came meanwhile, is placed anew.
    for (i, r) in (0..).zip(&sent) {
        p.answered(1, r.id, if i < 2 { Ok(i) } else { Err(error(ErrorCode::StalePin)) }, 0);
    }
    p.push(1, 0, &record(), 4);
    assert!(p.poll(1, true).is_empty() && p.is_settled());
    let unplaced = p.take_unplaced();
    assert_eq!(unplaced.iter().map(|u| u.token).collect::<Vec<_>>(), [2, 3, 4]);
    p.placed_anew(2, 3);
    assert_eq!(p.partitions(), 3);
    for u in unplaced {
        p.push(u.since_ms, u.token % 3, &u.record, u.token);
    }
    // A partition that was added has no stream yet: what is for it waits, and nothing else does.
    let before = p.poll(2, true);
    assert_eq!(before.iter().map(|r| (r.partition, r.pin_epoch)).collect::<Vec<_>>(), [(0, 2)]);
    (1..3).for_each(|partition| p.connected(partition));
    let anew = p.poll(3, true);
    assert_eq!(anew.iter().map(|r| (r.partition, r.pin_epoch)).collect::<Vec<_>>(), [(1, 2), (2, 2)]);
    // They are numbered from 0 on, under the producer's own id.
    assert!(anew.iter().all(|r| sequence(r) == (0, 0) && r.token == Some(ProducerToken([9; 16]))));
    for r in before.iter().chain(&anew) {
        p.answered(4, r.id, Ok(7), 0);
    }
    assert!(p.is_drained() && p.buffered_bytes() == 0);
    // A broker that says fewer is late.
    p.placed_anew(3, 1);
    assert_eq!(p.partitions(), 3);
}

#[test]
fn what_a_lost_leader_had_acknowledged_alone_leaves_a_gap_that_the_rest_gets_over() {
    let mut p = producer(150);
    p.config.acks = Acks::Leader;
    for i in 0..3 {
        p.push(0, 0, &record(), i);
    }
    let sent = p.poll(0, true);
    assert_eq!(sent.iter().map(sequence).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2)]);
    assert!(sent.iter().all(|r| r.token == Some(ProducerToken([9; 16]))));
    p.answered(1, sent[0].id, Ok(7), 0);
    p.disconnected(0, "the leader is gone");
    p.connected(0);
    let again = p.poll(2, false);
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), [(0, 1), (0, 2)], "a retry keeps its number");
    // The next leader has never seen the first one.
    p.answered(3, again[0].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    p.answered(3, again[1].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    let anew = p.poll(10, false);
    assert_eq!(anew.iter().map(sequence).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
}

#[test]
fn without_acks_nothing_is_numbered_or_sent_twice() {
    let mut p = ProducerCore::new(ProducerConfig { acks: Acks::None, batch_bytes: 150, ..Default::default() }, 1);
    p.connected(0);
    p.push(0, 0, &record(), 1);
    let sent = p.poll(0, true);
    assert_eq!((sent[0].batch.header().producer, sent[0].token), (None, None));
    assert!(matches!(&p.take_outcomes()[..], [Outcome { result: Ok(None), .. }]));
    p.disconnected(0, "cable");
    p.connected(0);
    assert!(p.poll(1, true).is_empty() && p.is_drained());
    assert_eq!(p.answered(2, sent[0].id, Err(error(ErrorCode::Backlog)), 0), None);
}

#[test]
fn a_batch_under_whose_number_others_stand_is_refused_and_the_next_goes_on() {
    let mut p = producer(150);
    for i in 0..2 {
        p.push(0, 0, &record(), i);
    }
    let sent = p.poll(0, true);
    p.answered(1, sent[0].id, Err(error(ErrorCode::SequenceTaken)), 0);
    p.answered(1, sent[1].id, Ok(4), 0);
    let outcomes = p.take_outcomes();
    assert!(matches!(&outcomes[0].result, Err(Failure::Refused(e)) if e.code == ErrorCode::SequenceTaken));
    assert_eq!(outcomes[1].result, Ok(Some(4)));
    assert!(p.is_drained());
}

#[test]
fn a_refused_batch_has_one_outcome_and_the_next_go_on_in_a_new_epoch() {
    let mut p = producer(150);
    for i in 0..2 {
        p.push(0, 0, &record(), i);
    }
    let sent = p.poll(0, true);
    p.answered(1, sent[0].id, Err(error(ErrorCode::TooLarge)), 0);
    p.answered(1, sent[1].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    let again = p.poll(2, false);
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), [(1, 0)]);
    p.answered(3, again[0].id, Ok(5), 0);
    let outcomes = p.take_outcomes();
    assert!(matches!(&outcomes[0].result, Err(Failure::Refused(e)) if e.code == ErrorCode::TooLarge));
    assert_eq!(outcomes[1].result, Ok(Some(5)));
    assert!(p.is_drained());
    assert_eq!(p.buffered_bytes(), 0);
}

#[test]
fn a_broker_that_does_not_lead_changes_neither_numbers_nor_order() {
    let mut p = producer(150);
    for i in 0..3 {
        p.push(0, 0, &record(), i);
    }
    let sent = p.poll(0, true);
    for (request, code) in sent.iter().zip([ErrorCode::NotLeader, ErrorCode::OutOfOrderSequence, ErrorCode::NotLeader])
    {
        p.answered(1, request.id, Err(error(code)), 0);
    }
    let again = p.poll(1_000, false);
    assert_eq!(again.iter().map(sequence).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn a_producer_that_was_forgotten_begins_anew_only_with_what_was_sent_once() {
    let mut p = producer(150);
    p.push(0, 0, &record(), 1);
    let sent = p.poll(0, true);
    p.answered(1, sent[0].id, Err(error(ErrorCode::UnknownProducer)), 0);
    let again = p.poll(1_000, false);
    assert_eq!(sequence(&again[0]), (1, 0));
    // It may have been appended the first time: under another number it could stand twice.
    p.disconnected(0, "cable");
    p.connected(0);
    let again = p.poll(1_001, false);
    p.answered(1_002, again[0].id, Err(error(ErrorCode::UnknownProducer)), 0);
    let outcomes = p.take_outcomes();
    assert!(matches!(&outcomes[..], [Outcome { result: Err(Failure::Refused(_)), .. }]), "{outcomes:?}");
}

#[test]
fn a_small_batch_does_not_overtake_one_that_has_no_room_in_flight() {
    let mut p = producer(150);
    p.config.in_flight_bytes_max = 2_000;
    let large = Record { value: Some(vec![1; 1_900].into()), ..record() };
    for (i, record) in [&record(), &large, &record()].into_iter().enumerate() {
        p.push(0, 0, record, i as u32);
    }
    let sent = p.poll(0, true);
    assert_eq!(sent.len(), 1, "the second one has no room, and the third one waits behind it");
    p.answered(1, sent[0].id, Ok(0), 0);
    assert!(p.poll(1, true)[0].batch.bytes().len() > 1_900);
}

#[test]
fn what_was_pushed_first_is_sent_first() {
    let mut p = producer(150);
    p.disconnected(0, "not yet");
    for i in 0..4 {
        p.push(i, 0, &Record { timestamp_ms: i as i64 + 1, ..record() }, i as u32);
    }
    p.connected(0);
    let sent = p.poll(4, true);
    let stamps: Vec<_> = sent.iter().map(|r| r.batch.records().unwrap()[0].1.timestamp_ms).collect();
    assert_eq!(stamps, [1, 2, 3, 4]);
}

#[test]
fn a_newer_pin_makes_what_waits_stale_and_is_not_sent_under() {
    let mut p = producer(150);
    p.placed_anew(1, p.partitions());
    p.push(0, 0, &record(), 1);
    p.hear_of_pin(2);
    assert!(p.is_stale() && p.poll(1, true).is_empty());
    assert_eq!(p.take_unplaced().len(), 1);
    p.placed_anew(2, p.partitions());
    p.push(1, 0, &record(), 1);
    let sent = p.poll(1, true);
    p.answered(2, sent[0].id, Err(error(ErrorCode::StalePin)), 0);
    assert!(p.is_stale() && p.poll(1_000, true).is_empty(), "a refused placement is not tried again");
}

fn stamped(p: &mut ProducerCore<u32>, stamps: &[i64]) {
    for timestamp_ms in stamps {
        p.push(0, 0, &Record { timestamp_ms: *timestamp_ms, ..record() }, *timestamp_ms as u32);
    }
}

fn stamps_of(request: &Request) -> Vec<i64> {
    request.batch.records().unwrap().iter().map(|(_, record)| record.timestamp_ms).collect()
}

fn too_new(max_ms: i64) -> ApiError {
    ApiError { timestamp_max_ms: Some(max_ms), ..error(ErrorCode::InvalidTimestamp) }
}

#[test]
fn a_batch_that_is_refused_for_some_of_its_records_is_sent_again_without_them_and_before_all_others() {
    let mut p = producer(1 << 20);
    stamped(&mut p, &[1, 700, 2, 900]);
    let first = p.poll(0, true);
    stamped(&mut p, &[3, 4]);
    let second = p.poll(1, true);
    stamped(&mut p, &[5]);
    assert_eq!((sequence(&first[0]), sequence(&second[0])), ((0, 0), (0, 4)));
    p.answered(2, first[0].id, Err(too_new(50)), 0);
    assert!(p.poll(3, true).is_empty(), "an answer is not in yet");
    p.answered(4, second[0].id, Err(error(ErrorCode::OutOfOrderSequence)), 0);
    let sent: Vec<Request> = (5..20).flat_map(|now_ms| p.poll(now_ms, true)).collect();
    assert_eq!(sent.iter().map(stamps_of).collect::<Vec<_>>(), [vec![1, 2], vec![3, 4], vec![5]]);
    assert_eq!(sent.iter().map(sequence).collect::<Vec<_>>(), [(1, 0), (1, 2), (1, 4)]);
    let refused = p.take_outcomes();
    assert_eq!(refused.iter().flat_map(|o| o.tokens.clone()).collect::<Vec<_>>(), [700, 900]);
    assert!(refused.iter().all(|o| matches!(o.result, Err(Failure::Refused(_)))));
    for request in &sent {
        p.answered(21, request.id, Ok(0), 0);
    }
    assert_eq!(p.take_outcomes().iter().flat_map(|o| o.tokens.clone()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(p.is_drained() && p.buffered_bytes() == 0);
}

#[test]
fn a_batch_all_of_which_is_refused_is_not_sent_again() {
    let mut p = producer(1 << 20);
    stamped(&mut p, &[700, 900]);
    let sent = p.poll(0, true);
    p.answered(1, sent[0].id, Err(too_new(50)), 0);
    assert!(p.poll(2, true).is_empty() && p.is_drained() && p.buffered_bytes() == 0);
    assert_eq!(p.take_outcomes().iter().map(|o| o.tokens.len()).sum::<usize>(), 2);
}

#[test]
fn a_refused_batch_waits_for_those_before_it_and_is_placed_anew_whole() {
    let mut p = producer(1 << 20);
    p.placed_anew(1, p.partitions());
    stamped(&mut p, &[1]);
    let first = p.poll(0, true);
    stamped(&mut p, &[2, 900]);
    let second = p.poll(0, true);
    // The first one's fate is open when the second one is refused.
    p.answered(1, first[0].id, Err(error(ErrorCode::NotLeader)), 0);
    p.answered(1, second[0].id, Err(too_new(50)), 0);
    let again: Vec<Request> = (2..2_000).flat_map(|now_ms| p.poll(now_ms, true)).collect();
    assert_eq!(again.iter().map(|r| (stamps_of(r), sequence(r))).collect::<Vec<_>>(), [(vec![1], (0, 0))]);
    p.answered(2_001, again[0].id, Err(error(ErrorCode::StalePin)), 0);
    assert!(p.is_settled(), "both are known not to stand anywhere");
    let unplaced = p.take_unplaced().into_iter().map(|u| u.token).collect::<Vec<_>>();
    assert_eq!((unplaced, p.buffered_bytes()), (vec![1, 2, 900], 0));
}

#[test]
fn planted_bugs_show() {
    assert_finds(Bug::NotLeaderRenumbers, a_broker_that_does_not_lead_changes_neither_numbers_nor_order);
    assert_finds(Bug::RefusedGoesBehind, a_broker_that_does_not_lead_changes_neither_numbers_nor_order);
    assert_finds(Bug::UnknownAlwaysRenumbers, a_producer_that_was_forgotten_begins_anew_only_with_what_was_sent_once);
    assert_finds(
        Bug::DisconnectForgetsAttempts,
        a_producer_that_was_forgotten_begins_anew_only_with_what_was_sent_once,
    );
    assert_finds(Bug::SmallOvertakesLarge, a_small_batch_does_not_overtake_one_that_has_no_room_in_flight);
    assert_finds(Bug::ClosedGoesFirst, what_was_pushed_first_is_sent_first);
    assert_finds(Bug::PinAdoptedUnplaced, a_newer_pin_makes_what_waits_stale_and_is_not_sent_under);
    assert_finds(Bug::PinRefusalResent, a_newer_pin_makes_what_waits_stale_and_is_not_sent_under);
}
