//! Handwritten scripts: one for each combination that is worth every fault at every call. The scripts at the
//! end have revealed defects, and are kept as regression tests.

mod nodes;

use domain::dialect::Dialect;

use crate::script::{Body, Name, Plan, RequestName, Script, Step, Tuning};

const A: Name = Name(0);
const B: Name = Name(1);
const C: Name = Name(2);

/// Returns every script, by name.
pub fn all() -> Vec<(&'static str, Script)> {
    let mut all = vec![
        ("in_order_with_checkpoints", in_order_with_checkpoints()),
        ("cut_and_resumed", cut_and_resumed()),
        ("taken_over", taken_over()),
        ("deferred_length_and_a_stall", deferred_length_and_a_stall()),
        ("last_word_of_another_dialect", last_word_of_another_dialect()),
        ("ranges_side_by_side", ranges_side_by_side()),
        ("ranges_replaced", ranges_replaced()),
        ("concatenation", concatenation()),
        ("cancel_and_expiry", cancel_and_expiry()),
        ("retention_and_an_operator", retention_and_an_operator()),
        ("kept_open", kept_open()),
        ("a_request_joins_while_a_commit_is_under_way", a_request_joins_while_a_commit_is_under_way()),
        ("a_request_joins_and_nobody_comes_again", a_request_joins_and_nobody_comes_again()),
        ("bytes_are_compared_when_all_are_there", bytes_are_compared_when_all_are_there()),
        ("a_stall_of_an_upload_that_a_request_has_made_full", a_stall_of_an_upload_that_a_request_has_made_full()),
        ("a_length_below_bytes_on_their_way", a_length_below_bytes_on_their_way()),
        ("other_bytes_come_with_the_last_ones", other_bytes_come_with_the_last_ones()),
    ];
    all.extend(nodes::all());
    all
}

/// Makes a script in which calls take time, always the same amount.
fn script(steps: Vec<Step>) -> Script {
    let tuning = Tuning { slow: true, checkpoint_every_ms: 300, checkpoint_bytes: 8_192, ..Tuning::default() };
    Script { seed: 7, tuning, steps, faults: Vec::new() }
}

fn create(upload: Name, plan: Plan) -> Step {
    Step::Create { upload, plan }
}

fn begin(request: u8, upload: Name, body: Body) -> Step {
    Step::Begin { request: RequestName(request), upload, body }
}

fn send(request: u8, bytes: u64) -> Step {
    Step::Send { request: RequestName(request), bytes }
}

fn end(request: u8) -> Step {
    Step::End { request: RequestName(request) }
}

fn wait(ms: u64) -> Step {
    Step::Wait { ms }
}

/// Returns the steps of a whole request.
fn whole(request: u8, upload: Name, body: Body) -> [Step; 3] {
    [begin(request, upload, body), send(request, body.size), end(request)]
}

fn in_order_with_checkpoints() -> Script {
    script(vec![
        create(A, Plan::of(Dialect::named("tus"), 20_000)),
        begin(1, A, Body::next(20_000)),
        send(1, 9_000),
        wait(500),
        Step::Inspect { upload: A },
        wait(1_500),
        send(1, 9_000),
        wait(400),
        send(1, 2_000),
        end(1),
        wait(3_000),
        Step::Inspect { upload: A },
    ])
}

fn cut_and_resumed() -> Script {
    script(vec![
        create(A, Plan::of(Dialect::named("tus"), 9_000)),
        begin(1, A, Body::next(9_000)),
        send(1, 5_000),
        wait(20),
        Step::Vanish { request: RequestName(1) },
        wait(2_000),
        Step::Inspect { upload: A },
        wait(2_500),
        begin(2, A, Body::next(9_000).checked()),
        send(2, 9_000),
        end(2),
        wait(2_000),
    ])
}

fn taken_over() -> Script {
    script(vec![
        create(A, Plan::of(Dialect::named("tus"), 20_000)),
        begin(1, A, Body::next(20_000)),
        send(1, 8_500),
        wait(700),
        Step::Inspect { upload: A },
        wait(300),
        begin(2, A, Body::next(20_000)),
        send(1, 500),
        send(2, 20_000),
        end(2),
        wait(100),
        begin(3, A, Body::next(20_000)),
        send(3, 20_000),
        end(3),
        wait(3_000),
    ])
}

fn deferred_length_and_a_stall() -> Script {
    script(vec![
        create(A, Plan::of(Dialect::named("tus"), 5_000).later()),
        begin(1, A, Body::next(2_000).chunked()),
        send(1, 2_000),
        wait(4_500),
        send(1, 0),
        end(1),
        wait(4_000),
        begin(2, A, Body::next(3_000).of(5_000)),
        send(2, 3_000),
        end(2),
        wait(2_000),
    ])
}

fn last_word_of_another_dialect() -> Script {
    script(vec![
        create(A, Plan::of(Dialect::named("ietf"), 6_000).later()),
        begin(1, A, Body::next(4_000).chunked()),
        send(1, 4_000),
        end(1),
        wait(1_000),
        begin(2, A, Body::next(2_000).last()),
        send(2, 2_000),
        end(2),
        create(B, Plan::of(Dialect::named("google"), 6_000).later()),
        begin(3, B, Body::next(6_000)),
        send(3, 6_000),
        end(3),
        wait(1_500),
        begin(4, B, Body::next(0).last()),
        end(4),
        wait(2_000),
    ])
}

fn ranges_side_by_side() -> Script {
    let mut steps = vec![create(A, Plan::of(Dialect::named("ranged"), 16_000))];
    steps.extend([
        begin(1, A, Body::range(0, 4_000)),
        begin(2, A, Body::range(8_000, 12_000).checked()),
        send(1, 2_000),
        send(2, 4_000),
        wait(350),
        end(2),
        Step::Inspect { upload: A },
        begin(3, A, Body::range(12_000, 16_000).chunked()),
        send(3, 4_000),
        end(3),
        send(1, 2_000),
        end(1),
        wait(50),
    ]);
    steps.extend(whole(4, A, Body::range(2_000, 8_000)));
    steps.push(wait(4_000));
    script(steps)
}

fn ranges_replaced() -> Script {
    let mut steps = vec![create(A, Plan::of(Dialect::named("ranged"), 12_000))];
    steps.extend(whole(1, A, Body::range(0, 4_000).other()));
    steps.push(wait(1_000));
    steps.extend(whole(2, A, Body::range(0, 4_000)));
    steps.push(wait(1_000));
    steps.extend(whole(3, A, Body::range(0, 4_000).checked()));
    steps.push(wait(1_000));
    steps.extend(whole(4, A, Body::range(2_000, 12_000).checked()));
    steps.push(wait(3_000));
    script(steps)
}

fn concatenation() -> Script {
    let part = |size| Plan { partial: true, ..Plan::of(Dialect::named("tus"), size) };
    let mut steps = vec![create(A, part(5_000)), create(B, part(3_000))];
    steps.extend(whole(1, A, Body::next(5_000)));
    steps.extend(whole(2, B, Body::next(3_000)));
    steps.extend([
        // Both have arrived then, however long the calls take.
        wait(10_000),
        Step::Concatenate { upload: C, parts: [Some(A), Some(B), None] },
        wait(5),
        Step::Inspect { upload: C },
        wait(3_000),
        Step::Cancel { upload: A },
        wait(1_000),
    ]);
    script(steps)
}

fn cancel_and_expiry() -> Script {
    let mut steps =
        vec![create(A, Plan::of(Dialect::named("tus"), 9_000)), create(B, Plan::of(Dialect::named("ranged"), 9_000))];
    steps.extend([begin(1, A, Body::next(9_000)), send(1, 6_000), wait(600), Step::Cancel { upload: A }, wait(200)]);
    steps.extend(whole(2, B, Body::range(3_000, 6_000)));
    steps.extend([wait(75_000), Step::Inspect { upload: B }]);
    script(steps)
}

/// One file is removed by retention, and an operator deletes a complete upload and one that is being
/// received.
fn retention_and_an_operator() -> Script {
    let mut kept = script(vec![
        create(A, Plan::of(Dialect::named("tus"), 5_000)),
        create(B, Plan::of(Dialect::named("ranged"), 4_000)),
    ]);
    kept.tuning.keeps_files_ms = Some(15_000);
    kept.steps.extend(whole(1, A, Body::next(5_000)));
    kept.steps.extend(whole(2, B, Body::range(0, 4_000)));
    kept.steps.extend([
        create(C, Plan::of(Dialect::named("tus"), 9_000)),
        begin(3, C, Body::next(9_000)),
        send(3, 6_000),
    ]);
    kept.steps.extend([wait(3_000), Step::Delete { upload: B }, Step::Delete { upload: C }, wait(3_000)]);
    kept.steps.extend([
        Step::Delete { upload: B },
        Step::Cancel { upload: B },
        wait(25_000),
        Step::Inspect { upload: A },
    ]);
    kept
}

fn kept_open() -> Script {
    let mut kept = script(vec![create(A, Plan::of(Dialect::named("tus"), 12_000))]);
    kept.tuning.keep_open_ms = 1_000;
    kept.steps.extend(whole(1, A, Body::next(4_000)));
    kept.steps.push(wait(700));
    kept.steps.extend(whole(2, A, Body::next(4_000)));
    kept.steps.push(wait(2_500));
    kept.steps.extend(whole(3, A, Body::next(4_000)));
    kept.steps.push(wait(2_000));
    kept.steps.push(create(B, Plan::of(Dialect::named("ranged"), 8_000)));
    kept.steps.extend(whole(4, B, Body::range(4_000, 8_000)));
    kept.steps.push(wait(500));
    kept.steps.extend(whole(5, B, Body::range(0, 4_000)));
    kept.steps.push(wait(2_000));
    kept
}

/// The second request declares the length, so it waits for the commit of the first one.
fn a_request_joins_while_a_commit_is_under_way() -> Script {
    let mut joining = script(vec![create(A, Plan::of(Dialect::named("ranged"), 8_000).later())]);
    joining.tuning.slow = false;
    joining.steps.extend(whole(1, A, Body::range(0, 4_000)));
    joining.steps.push(wait(100));
    joining.steps.extend(whole(2, A, Body::range(4_000, 8_000).of(8_000)));
    joining.steps.push(wait(3_000));
    joining.steps.extend(whole(3, A, Body::range(4_000, 8_000).of(8_000)));
    joining.steps.push(wait(3_000));
    joining
}

fn a_request_joins_and_nobody_comes_again() -> Script {
    let mut joining = a_request_joins_while_a_commit_is_under_way();
    joining.steps.truncate(joining.steps.len() - 4);
    joining
}

/// A request with a checksum compares its bytes when those of the other requests have completed the upload.
fn bytes_are_compared_when_all_are_there() -> Script {
    let mut steps = vec![create(A, Plan::of(Dialect::named("ranged"), 8_192))];
    steps.extend(whole(1, A, Body::range(0, 4_096)));
    steps.extend([wait(3_000), begin(2, A, Body::range(0, 8_192).checked().chunked()), send(2, 100), wait(100)]);
    steps.extend([begin(3, A, Body::range(4_096, 8_192)), send(3, 4_096), wait(60), end(3)]);
    steps.extend([send(2, 4_100), wait(1_000), send(2, 8_192), end(2), wait(3_000)]);
    script(steps)
}

/// The length is declared by a request without bytes, which then falls silent.
fn a_stall_of_an_upload_that_a_request_has_made_full() -> Script {
    let mut steps = vec![create(A, Plan::of(Dialect::named("tus"), 5).later())];
    steps.extend(whole(1, A, Body::next(5)));
    steps.extend([wait(4_000), begin(2, A, Body::next(0).chunked().of(5)), wait(8_000), end(2), wait(2_000)]);
    script(steps)
}

fn a_length_below_bytes_on_their_way() -> Script {
    let mut steps = vec![create(A, Plan::of(Dialect::named("ranged"), 8_192).later())];
    steps.extend([begin(1, A, Body::range(0, 8_192).chunked()), send(1, 8_192), wait(60)]);
    steps.extend(whole(2, A, Body::range(0, 4_096).of(4_096)));
    steps.extend([wait(3_000), end(1), wait(2_000)]);
    script(steps)
}

/// Two requests send different bytes for the same offset, and one of them completes the upload.
fn other_bytes_come_with_the_last_ones() -> Script {
    let mut steps = vec![create(A, Plan::of(Dialect::named("ranged"), 100))];
    steps.extend([begin(1, A, Body::range(0, 100).chunked().other()), wait(2_500)]);
    steps.extend([begin(2, A, Body::range(0, 100)), wait(2_500)]);
    steps.extend([send(2, 100), end(2), send(1, 100), end(1), wait(3_000)]);
    script(steps)
}
