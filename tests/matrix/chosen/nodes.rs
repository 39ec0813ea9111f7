//! Handwritten scripts for several nodes. Each is a way in which an upload changes hands.

use domain::dialect::Dialect;

use super::{A, B, begin, create, end, script, send, wait, whole};
use crate::peers::Line;
use crate::script::{At, Body, NodeNumber, Plan, Script, Step, Tuning, Wire};

const FIRST: NodeNumber = NodeNumber(0);
const SECOND: NodeNumber = NodeNumber(1);

pub(super) fn all() -> Vec<(&'static str, Script)> {
    vec![
        ("nodes_continued_elsewhere", continued_elsewhere()),
        ("nodes_continued_elsewhere_on_a_sealing_store", on_a_sealing_store(continued_elsewhere())),
        ("nodes_a_zombie_writes_on", a_zombie_writes_on()),
        ("nodes_a_zombie_writes_on_to_a_sealing_store", on_a_sealing_store(a_zombie_writes_on())),
        ("nodes_ranges_at_two_nodes", ranges_at_two_nodes()),
        ("nodes_the_holder_is_killed", the_holder_is_killed()),
        ("nodes_cut_off_from_the_state", cut_off_from_the_state()),
        ("nodes_counted_as_dead_and_silent", counted_as_dead_and_silent()),
        ("nodes_a_holder_dies_with_bytes_of_another", a_holder_dies_with_bytes_of_another()),
        ("nodes_not_yet_alive_again", not_yet_alive_again()),
        ("nodes_beyond_the_offset_of_another", beyond_the_offset_of_another()),
        ("nodes_a_zombie_commits_first", a_zombie_commits_first()),
        ("nodes_fenced_and_asked", fenced_and_asked()),
        ("nodes_a_forgotten_writer_knows_an_old_offset", a_forgotten_writer_knows_an_old_offset(0)),
        ("nodes_a_forgotten_parked_writer_knows_an_old_offset", a_forgotten_writer_knows_an_old_offset(5_000)),
    ]
}

/// Makes a script for two nodes.
fn of_two(steps: Vec<Step>) -> Script {
    let mut two = script(steps);
    two.tuning.nodes = 2;
    two
}

/// The same with calls that take no time: what is repeated without a pause is repeated forever.
fn at_once(script: Script) -> Script {
    let tuning = Tuning { slow: false, ..script.tuning };
    Script { tuning, ..script }
}

fn on_a_sealing_store(mut script: Script) -> Script {
    script.tuning.seals = true;
    script
}

fn to(node: NodeNumber) -> Step {
    Step::Switch { node }
}

const fn cut(node: NodeNumber, wire: Wire, line: Line) -> Step {
    Step::Cut { node, wire, line }
}

/// The clean way: the holder answers, and releases the upload.
fn continued_elsewhere() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 12_000)),
        begin(1, A, Body::next(12_000)),
        send(1, 5_000),
        wait(100),
        to(SECOND),
        Step::Inspect { upload: A },
        wait(50),
        begin(2, A, Body::next(12_000)),
        send(1, 500),
        send(2, 3_000),
        wait(400),
        to(FIRST),
        Step::Inspect { upload: A },
        wait(50),
    ];
    steps.extend(whole(3, A, Body::next(12_000)));
    steps.push(wait(1_500));
    of_two(steps)
}

/// The first node is frozen, loses the upload, and then goes on to write other bytes.
fn a_zombie_writes_on() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 12_000)),
        begin(1, A, Body::next(12_000).other()),
        send(1, 2_000),
        wait(400),
        send(1, 3_000),
        Step::Freeze { node: FIRST },
        to(SECOND),
        Step::Inspect { upload: A },
        wait(1_500),
        begin(2, A, Body::next(12_000)),
        send(2, 3_000),
        wait(1_800),
        send(1, 4_000),
        Step::Thaw { node: FIRST },
        wait(50),
        send(1, 3_000),
        end(1),
        wait(600),
    ];
    steps.extend([send(2, 12_000), end(2), wait(1_500)]);
    of_two(steps)
}

fn ranges_at_two_nodes() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("ranged"), 12_000)),
        begin(1, A, Body::range(0, 6_000)),
        send(1, 3_000),
        wait(350),
        to(SECOND),
        begin(2, A, Body::range(6_000, 12_000).other()),
        send(2, 6_000),
        wait(100),
        send(1, 3_000),
        end(1),
        end(2),
        wait(2_000),
    ];
    steps.extend(whole(3, A, Body::range(6_000, 12_000)));
    steps.push(wait(1_000));
    of_two(steps)
}

fn the_holder_is_killed() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 9_000)),
        create(B, Plan::of(Dialect::named("ietf"), 4_000)),
        begin(1, A, Body::next(9_000)),
        send(1, 5_000),
        begin(2, B, Body::next(4_000)),
        send(2, 2_000),
        wait(400),
        Step::Kill,
        to(SECOND),
        Step::Inspect { upload: A },
        wait(50),
    ];
    steps.extend(whole(3, A, Body::next(9_000)));
    steps.extend([wait(1_500), Step::Stop, to(FIRST), Step::Inspect { upload: B }, wait(100)]);
    steps.extend(whole(4, B, Body::next(4_000).last()));
    steps.push(wait(1_000));
    of_two(steps)
}

/// Commits of the first node are made, and it does not learn of them.
fn cut_off_from_the_state() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 9_000)),
        begin(1, A, Body::next(9_000)),
        send(1, 3_000),
        cut(FIRST, Wire::State, Line::AnswersLost),
        wait(6_500),
        to(SECOND),
        Step::Inspect { upload: A },
        wait(1_500),
    ];
    steps.extend(whole(2, A, Body::next(4_000)));
    steps.extend([wait(300), cut(FIRST, Wire::State, Line::Open), wait(1_500), to(FIRST)]);
    steps.push(Step::Inspect { upload: A });
    steps.extend(whole(3, A, Body::next(9_000)));
    steps.push(wait(1_500));
    of_two(steps)
}

/// The heartbeats of the first node are lost, although it reaches the state. Its idle writer knows an old
/// offset, and must not report it.
fn counted_as_dead_and_silent() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 9_000)),
        begin(1, A, Body::next(9_000)),
        send(1, 3_000),
        wait(2_000),
        cut(FIRST, Wire::Heartbeat, Line::Refused),
        cut(FIRST, Wire::Peers, Line::Refused),
        wait(7_000),
        to(SECOND),
    ];
    steps.extend(whole(2, A, Body::next(3_000)));
    steps.extend([wait(600), Step::Inspect { upload: A }, wait(100), to(FIRST)]);
    steps.extend(whole(3, A, Body::next(3_000)));
    steps.extend([wait(500), cut(FIRST, Wire::Heartbeat, Line::Open), wait(2_000)]);
    of_two(steps)
}

/// Ranges are passed on to the holder, which is killed before it has written them.
fn a_holder_dies_with_bytes_of_another() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("ranged"), 9_000)),
        begin(1, A, Body::range(2_000, 9_000)),
        send(1, 3_000),
        wait(20),
        to(SECOND),
        begin(2, A, Body::range(0, 2_000).chunked()),
        send(2, 155),
        wait(60),
        send(2, 155),
        to(FIRST),
        Step::Kill,
        wait(2_000),
    ];
    steps.extend(whole(3, A, Body::range(0, 9_000)));
    steps.push(wait(1_500));
    of_two(steps)
}

/// The state has forgotten the second node, which notices it with its next heartbeat. Until then it can take
/// no upload from a node that does not answer.
fn not_yet_alive_again() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 9_000)),
        wait(1_500),
        cut(FIRST, Wire::Peers, Line::Refused),
        Step::Forget { node: SECOND },
        to(SECOND),
    ];
    steps.extend(whole(1, A, Body::next(4_000)));
    steps.push(wait(2_000));
    at_once(of_two(steps))
}

/// A request begins beyond the offset of an upload that another node writes, and is rejected.
fn beyond_the_offset_of_another() -> Script {
    let beyond = Body { at: At::Place(5_000), ..Body::next(4_000) };
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("google"), 9_000)),
        begin(1, A, Body::next(9_000)),
        send(1, 3_000),
        wait(1_500),
        to(SECOND),
    ];
    steps.extend(whole(2, A, beyond));
    steps.extend([wait(50), cut(FIRST, Wire::Peers, Line::Refused)]);
    steps.extend(whole(3, A, beyond));
    steps.extend([wait(500), send(1, 6_000), end(1), wait(1_500)]);
    at_once(of_two(steps))
}

/// The state forgets the first node, and the second one continues the upload of its idle writer. Before the
/// first node has noticed anything, a client returns to it.
fn a_forgotten_writer_knows_an_old_offset(keep_open_ms: u64) -> Script {
    let is_parked = keep_open_ms > 0;
    let mut steps = vec![create(A, Plan::of(Dialect::named("tus"), 9_000))];
    match is_parked {
        true => steps.extend(whole(1, A, Body::next(500))),
        false => steps.push(begin(1, A, Body::next(9_000))),
    }
    steps.extend([wait(1_500), Step::Forget { node: FIRST }, to(SECOND)]);
    steps.extend(whole(2, A, Body::next(1_000)));
    steps.extend([wait(20), to(FIRST)]);
    steps.extend(whole(3, A, Body::next(2_000)));
    steps.extend([wait(2_000), Step::Inspect { upload: A }, wait(100)]);
    let mut script = at_once(of_two(steps));
    script.tuning.keep_open_ms = keep_open_ms;
    script
}

/// The first node has bytes that are not committed when the second one, which cannot reach it, takes over the
/// upload. It commits them before the second one has committed anything.
fn a_zombie_commits_first() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 9_000)),
        begin(1, A, Body::next(9_000).other()),
        send(1, 2_000),
        wait(1_500),
        Step::Inspect { upload: A },
        wait(1_200),
        cut(FIRST, Wire::Peers, Line::Refused),
        send(1, 1_000),
        to(SECOND),
        begin(2, A, Body::next(7_000)),
        wait(600),
        send(2, 7_000),
        end(2),
        wait(1_000),
    ];
    steps.extend(whole(3, A, Body::next(9_000)));
    steps.push(wait(1_000));
    at_once(of_two(steps))
}

/// Requests reach a node whose heartbeats are lost.
fn fenced_and_asked() -> Script {
    let mut steps = vec![
        create(A, Plan::of(Dialect::named("tus"), 9_000)),
        wait(500),
        cut(FIRST, Wire::Heartbeat, Line::Refused),
        wait(4_200),
        Step::Inspect { upload: A },
    ];
    steps.extend(whole(1, A, Body::next(3_000)));
    steps.extend([wait(500), cut(FIRST, Wire::Heartbeat, Line::Open), wait(1_500)]);
    steps.extend(whole(2, A, Body::next(9_000)));
    steps.push(wait(1_000));
    at_once(of_two(steps))
}
