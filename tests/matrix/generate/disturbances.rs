//! Disturbances of nodes and of their lines, and requests that continue at another node.

use super::Writer;
use crate::peers::Line;
use crate::script::{Body, NodeNumber, RequestName, Step, Wire};

impl Writer {
    pub(super) fn disturb(&mut self) {
        let node = self.node();
        match self.dice.below(100) {
            0..45 => self.steps.push(Step::Switch { node }),
            45..60 => {
                let wire = self.dice.pick(&[Wire::Peers, Wire::Peers, Wire::State, Wire::Heartbeat]);
                let line = self.line();
                self.steps.push(Step::Cut { node, wire, line });
            }
            60..66 => self.steps.push(Step::Freeze { node }),
            66..72 => self.steps.push(Step::Thaw { node }),
            72..76 => self.steps.push(Step::Forget { node }),
            76..80 => self.steps.push(self.dice.pick(&[Step::Kill, Step::Stop])),
            _ => self.leave_a_zombie(),
        }
    }

    fn node(&mut self) -> NodeNumber {
        NodeNumber(u8::try_from(self.dice.below(self.tuning.nodes.into())).expect("there are few"))
    }

    fn line(&mut self) -> Line {
        self.dice.pick(&[Line::Open, Line::Refused, Line::Silent, Line::AnswersLost])
    }

    /// A node is disturbed while it receives a request, another one continues the upload, and then the first
    /// one is well again.
    fn leave_a_zombie(&mut self) {
        let (upload, plan) = self.upload();
        let (first, second) = (self.node(), self.node());
        let request = self.new_request();
        let body = self.body(&plan);
        self.steps.push(Step::Switch { node: first });
        self.steps.push(Step::Begin { request, upload, body });
        self.steps.push(Step::Send { request, bytes: 1 + self.dice.below(body.size.max(1)) });
        self.requests.push((request, body.size));
        self.wait();
        let well = match self.dice.below(4) {
            0 => {
                self.steps.push(Step::Freeze { node: first });
                Step::Thaw { node: first }
            }
            1 => {
                self.steps.push(Step::Forget { node: first });
                Step::Cut { node: first, wire: Wire::Peers, line: Line::Open }
            }
            _ => {
                let wire = self.dice.pick(&[Wire::Peers, Wire::State, Wire::Heartbeat]);
                let line = self.dice.pick(&[Line::Refused, Line::Silent, Line::AnswersLost]);
                self.steps.push(Step::Cut { node: first, wire, line });
                Step::Cut { node: first, wire, line: Line::Open }
            }
        };
        if self.dice.chance(50) {
            self.steps.push(Step::Wait { ms: self.dice.pick(&[1_500, 4_000, 7_000]) });
        }
        self.steps.extend([Step::Switch { node: second }, Step::Inspect { upload }, Step::Wait { ms: 300 }]);
        let next = self.new_request();
        let body = if self.dice.chance(50) { Body::next(plan.size) } else { self.body(&plan) };
        self.steps.push(Step::Begin { request: next, upload, body });
        let bytes = 1 + self.dice.below(body.size.max(1));
        self.steps.push(Step::Send { request: next, bytes });
        self.requests.push((next, body.size.saturating_sub(bytes)));
        self.wait();
        self.steps.push(well);
    }

    fn new_request(&mut self) -> RequestName {
        self.next_request += 1;
        RequestName(self.next_request - 1)
    }
}
