//! Header fields for the tests of parsers.

use edge::fields::Fields;
use proptest::prelude::*;

/// Fields as a test defines them.
pub(crate) type Text = Vec<(&'static str, &'static str)>;

/// Arbitrary fields with arbitrary bytes.
#[derive(Debug, Clone)]
pub(crate) struct Anything(Vec<(&'static str, Vec<u8>)>);

impl Fields for Anything {
    fn values<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        Box::new(self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_slice()))
    }
}

/// Generates some of the fields, with random bytes or with words of the grammar, which get far into the
/// parsers.
pub(crate) fn anything(
    fields: &'static [&'static str],
    words: &'static [&'static [u8]],
    max_words: usize,
) -> impl Strategy<Value = Anything> {
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(prop::sample::select(words), 0..max_words).prop_map(|words| words.concat()),
    ];
    prop::collection::vec((prop::sample::select(fields), value), 0..8).prop_map(Anything)
}
