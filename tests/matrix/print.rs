//! Prints scripts.

use std::fmt;

use crate::peers::Line;
use crate::script::{At, Body, Checksum, Content, Name, NodeNumber, Plan, Promise, RequestName, Script, Step, Wire};

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'A' + self.0 % 26))
    }
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.0)
    }
}

impl fmt::Display for NodeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl Wire {
    const fn name(self) -> &'static str {
        match self {
            Self::Peers => "the line from other nodes",
            Self::State => "the line to the state",
            Self::Heartbeat => "the line of heartbeats",
        }
    }
}

const fn name_of(line: Line) -> &'static str {
    match line {
        Line::Open => "works",
        Line::Refused => "is refused",
        Line::Silent => "loses everything",
        Line::AnswersLost => "loses the answers",
        Line::Stopped => "is stopped",
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = if self.partial { ", a partial one" } else { "" };
        let length = if self.says_size { "" } else { ", which is not said yet" };
        let promise = match self.promise {
            Promise::None => "",
            Promise::Right => ", with the digest of the file promised",
            Promise::Wrong => ", with a wrong digest promised",
        };
        write!(f, "{}{part}, of {} bytes{length}{promise}", self.dialect.name(), self.size)
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, .. } = self;
        match self.at {
            At::Offset => write!(f, "{size} bytes at the offset it knows")?,
            At::Place(start) => write!(f, "bytes {start} to {}", start + size)?,
        }
        if !self.says_size {
            f.write_str(", chunked")?;
        }
        if let Some(length) = self.length {
            write!(f, ", says the length is {length}")?;
        }
        let extras = [
            (self.last, ", says that it is the last"),
            (self.content == Content::Other, ", other bytes than the file's"),
            (self.checksum == Checksum::Right, ", with its checksum"),
            (self.checksum == Checksum::Wrong, ", with a wrong checksum"),
            (self.fatal, ", too many are fatal"),
        ];
        extras.iter().filter(|(holds, _)| *holds).try_for_each(|(_, text)| f.write_str(text))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { upload, plan } => write!(f, "create {upload}: {plan}"),
            Self::Begin { request, upload, body } => write!(f, "{request} begins, for {upload}: {body}"),
            Self::Send { request, bytes } => write!(f, "{request} sends {bytes} bytes"),
            Self::End { request } => write!(f, "{request} ends its body"),
            Self::Fall { request } => write!(f, "{request} falls silent and is abandoned"),
            Self::Vanish { request } => write!(f, "{request} vanishes"),
            Self::Inspect { upload } => write!(f, "HEAD {upload}"),
            Self::Cancel { upload } => write!(f, "DELETE {upload}"),
            Self::Delete { upload } => write!(f, "an operator deletes {upload}"),
            Self::Concatenate { upload, parts } => {
                write!(f, "create {upload} out of")?;
                parts.iter().flatten().try_for_each(|part| write!(f, " {part}"))
            }
            Self::Wait { ms } => write!(f, "{ms} ms pass"),
            Self::Kill => f.write_str("the process is killed and started again"),
            Self::Stop => f.write_str("the process is stopped in order and started again"),
            Self::Switch { node } => write!(f, "the next requests go to {node}"),
            Self::Cut { node, wire, line } => write!(f, "{} of {node}: {}", wire.name(), name_of(*line)),
            Self::Freeze { node } => write!(f, "{node} is frozen"),
            Self::Thaw { node } => write!(f, "{node} continues"),
            Self::Forget { node } => write!(f, "the state forgets {node}"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  settings: {:?}", self.tuning)?;
        for fault in &self.faults {
            writeln!(f, "  fault: {fault}")?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "  {number:>2}. {step}")?;
        }
        Ok(())
    }
}
