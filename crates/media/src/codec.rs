//! The names of codecs, as in a `codecs` parameter (RFC 6381), built from the headers of decoders.

use mp4_atom::esds::DecoderSpecific;
use mp4_atom::{Atom, Av1c, Avcc, Esds, Hvcc, VpcC};

use crate::fields::be;

/// Descriptors may be nested, and the library follows them recursively. In this many bytes the nesting is not
/// deep.
const MAX_DESCRIPTORS: usize = 512;

/// The name of a codec whose own name cannot be shown.
const UNKNOWN: &str = "unknown";

/// Maximum length of a name.
const MAX_NAME: usize = 40;

/// Returns a name such as `avc1.640028`: profile, constraints and level.
pub(super) fn avc(entry: &str, mut config: &[u8]) -> Option<String> {
    let avc = Avcc::decode_body(&mut config).ok()?;
    let (profile, constraints) = (avc.avc_profile_indication, avc.profile_compatibility);
    Some(format!("{entry}.{profile:02x}{constraints:02x}{:02x}", avc.avc_level_indication))
}

/// Returns a name such as `hvc1.1.6.L93.b0` (ISO/IEC 14496-15, annex E): profile, compatible profiles, tier
/// and level, constraints.
pub(super) fn hevc(entry: &str, mut config: &[u8]) -> Option<String> {
    let hevc = Hvcc::decode_body(&mut config).ok()?;
    let space = ["", "A", "B", "C"].get(usize::from(hevc.general_profile_space))?;
    let compatible = u32::from_be_bytes(hevc.general_profile_compatibility_flags).reverse_bits();
    let tier = if hevc.general_tier_flag { 'H' } else { 'L' };
    let mut name =
        format!("{entry}.{space}{}.{compatible:x}.{tier}{}", hevc.general_profile_idc, hevc.general_level_idc);
    let constraints = hevc.general_constraint_indicator_flags;
    let told = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..told] {
        name.push_str(&format!(".{byte:x}"));
    }
    Some(name)
}

/// Returns a name such as `av01.0.04M.08`: profile, level and tier, bits.
pub(super) fn av1(mut config: &[u8]) -> Option<String> {
    let av1 = Av1c::decode_body(&mut config).ok()?;
    let tier = if av1.seq_tier_0 { 'H' } else { 'M' };
    let bits = match (av1.high_bitdepth, av1.twelve_bit) {
        (true, true) => 12,
        (true, false) => 10,
        (false, _) => 8,
    };
    Some(format!("av01.{}.{:02}{tier}.{bits:02}", av1.seq_profile, av1.seq_level_idx_0))
}

/// Returns a name such as `vp09.00.10.08`: profile, level, bits.
pub(super) fn vp(entry: &str, mut config: &[u8]) -> Option<String> {
    let vp = VpcC::decode_body(&mut config).ok()?;
    Some(format!("{entry}.{:02}.{:02}.{:02}", vp.profile, vp.level, vp.bit_depth))
}

/// The facts in an MPEG-4 description of sound.
#[derive(Debug, Default)]
pub(super) struct Mpeg4Codec {
    pub(super) codec: Option<String>,
    pub(super) channels: Option<u32>,
}

/// Returns a name such as `mp4a.40.2`: the object type and, for MPEG-4 audio, the audio object type.
pub(super) fn mpeg4(entry: &str, mut config: &[u8]) -> Mpeg4Codec {
    if config.len() > MAX_DESCRIPTORS {
        return Mpeg4Codec::default();
    }
    let Ok(esds) = Esds::decode_body(&mut config) else { return Mpeg4Codec::default() };
    let decoder = esds.es_desc.dec_config;
    match (decoder.object_type_indication, decoder.dec_specific) {
        (0x40, Some(DecoderSpecific { profile, chan_conf, .. })) => {
            let channels = match chan_conf {
                1..=6 => Some(u32::from(chan_conf)),
                7 => Some(8),
                _ => None,
            };
            Mpeg4Codec { codec: Some(format!("{entry}.40.{profile}")), channels }
        }
        (object, _) => Mpeg4Codec { codec: Some(format!("{entry}.{object:02x}")), channels: None },
    }
}

/// Returns the channels of AC-3 (ETSI TS 102 366, annex F.4), for which the sample entry always says two.
pub(super) fn ac3_channels(config: &[u8]) -> Option<u32> {
    let bits = be::<3>(config, 0).ok()?;
    dolby_channels(bits >> 11 & 7, bits >> 10 & 1)
}

/// Returns the channels of the first independent stream of E-AC-3 (annex F.6).
pub(super) fn eac3_channels(config: &[u8]) -> Option<u32> {
    let bits = be::<4>(config, 0).ok()?;
    dolby_channels(bits >> 1 & 7, bits & 1)
}

/// Adds up the channels of a coding mode and the low-frequency channel.
fn dolby_channels(mode: u64, low: u64) -> Option<u32> {
    let wide = [2, 1, 2, 3, 3, 4, 4, 5].get(usize::try_from(mode).ok()?)?;
    Some(wide + u32::try_from(low).ok()?)
}

/// Returns the name of AAC in Matroska, which stores the decoder-specific part of MPEG-4.
pub(super) fn aac(config: &[u8]) -> Option<String> {
    let kind = config.first()? >> 3;
    (kind != 0 && kind != 31).then(|| format!("mp4a.40.{kind}"))
}

/// Returns a name from the file's own code for a codec, if nothing more is known.
pub(super) fn plain(name: &[u8]) -> String {
    let shown = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_/ ".contains(byte);
    let text = str::from_utf8(name).ok().filter(|_| name.iter().all(shown));
    let text = text.map(|text| text.trim_matches([' ', '.']).to_ascii_lowercase().replace(' ', "-"));
    text.filter(|text| (1..=MAX_NAME).contains(&text.len())).unwrap_or_else(|| UNKNOWN.to_owned())
}
