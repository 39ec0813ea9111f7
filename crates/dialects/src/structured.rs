//! Structured fields (RFC 9651), as far as uploads need them.
//!
//! A field that does not have the expected type counts as absent, and so does a single value that is
//! repeated. For fields that must not be ignored, such as digests, an error is returned.

use sfv::{BareItem, Dictionary, Item, Parser};

use edge::fields::Fields;

/// Returns an Integer, without its parameters.
pub(crate) fn integer(fields: &dyn Fields, name: &str) -> Option<i64> {
    if let BareItem::Integer(value) = item(fields, name)? { Some(value.into()) } else { None }
}

/// Returns a Boolean, without its parameters.
pub(crate) fn boolean(fields: &dyn Fields, name: &str) -> Option<bool> {
    if let BareItem::Boolean(value) = item(fields, name)? { Some(value) } else { None }
}

/// Returns a Dictionary; `None` if the field is absent or has no members.
pub(crate) fn dictionary(fields: &dyn Fields, name: &str) -> Result<Option<Dictionary>, sfv::Error> {
    let members: Dictionary = Parser::new(&combined(fields, name)).parse()?;
    Ok((!members.is_empty()).then_some(members))
}

fn item(fields: &dyn Fields, name: &str) -> Option<BareItem> {
    let item: Item = Parser::new(&combined(fields, name)).parse().ok()?;
    Some(item.bare_item)
}

/// Joins the lines of a field. RFC 9651, 4.2: they are parsed as one, and two items in it are invalid.
fn combined(fields: &dyn Fields, name: &str) -> Vec<u8> {
    fields.values(name).collect::<Vec<_>>().join(&b", "[..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Text;

    #[test]
    fn an_integer_is_one_and_nothing_else() {
        for (lines, value) in [
            (vec!["5"], Some(5)),
            (vec![" 5 "], Some(5)),
            (vec!["005"], Some(5)),
            (vec!["5;foo"], Some(5)),
            (vec!["5;foo=\"a, b\";bar"], Some(5)),
            (vec!["-1"], Some(-1)),
            (vec!["999999999999999"], Some(999_999_999_999_999)),
            (vec!["1000000000000000"], None),
            (vec!["5, 6"], None),
            (vec!["5", "6"], None),
            (vec!["5", "5"], None),
            (vec!["5", ""], None),
            (vec!["5.0"], None),
            (vec!["\"5\""], None),
            (vec!["+5"], None),
            (vec!["?1"], None),
            (vec!["5 6"], None),
            (vec!["5;"], None),
            (vec!["٣"], None),
            (vec![""], None),
            (vec![], None),
        ] {
            let fields: Text = lines.iter().map(|line| ("upload-offset", *line)).collect();
            assert_eq!(integer(&fields, "upload-offset"), value, "ietf 77, 78: {lines:?}");
        }
    }

    #[test]
    fn a_boolean_is_one_and_nothing_else() {
        for (lines, value) in [
            (vec!["?1"], Some(true)),
            (vec!["?0"], Some(false)),
            (vec!["?1;x=1"], Some(true)),
            (vec!["1"], None),
            (vec!["true"], None),
            (vec!["?2"], None),
            (vec!["?"], None),
            (vec!["?1, ?1"], None),
            (vec!["(?1)"], None),
            (vec!["?1", "?1"], None),
            (vec!["?1", "?0"], None),
            (vec![""], None),
        ] {
            let fields: Text = lines.iter().map(|line| ("upload-complete", *line)).collect();
            assert_eq!(boolean(&fields, "upload-complete"), value, "ietf 20: {lines:?}");
        }
    }

    /// Lines of arbitrary bytes from a client.
    struct Raw(Vec<Vec<u8>>);

    impl Fields for Raw {
        fn values<'a>(&'a self, _name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
            Box::new(self.0.iter().map(Vec::as_slice))
        }
    }

    proptest! {
        #[test]
        fn an_integer_reads_back(value in -999_999_999_999_999_i64..=999_999_999_999_999) {
            prop_assert_eq!(integer(&Raw(vec![value.to_string().into_bytes()]), "upload-offset"), Some(value));
        }

        #[test]
        fn no_bytes_confuse_the_parsers(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..3)) {
            let fields = Raw(lines);
            let found = [
                integer(&fields, "a").is_some(),
                boolean(&fields, "a").is_some(),
            ];
            prop_assert!(!(found[0] && found[1]), "a parsed field has one type");
            prop_assert!(found == [false; 2] || fields.0.len() == 1, "a repeated field counts as absent");
            prop_assert!(dictionary(&fields, "a").is_err() || fields.0.iter().flatten().all(u8::is_ascii));
        }
    }
}
