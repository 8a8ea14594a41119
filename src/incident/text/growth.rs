//! Bounds for what an incident may become once it is stored.

/// Numbers of one incident may take so many digits more than their text: Postgres keeps `1e308` as 309 digits, and can show no
/// row that is larger than a gigabyte.
const DIGITS_ADDED_MAX: u64 = 1_000_000;
/// An object of three bytes becomes a row of a kilobyte.
const OBJECTS_MAX: usize = 100_000;
/// A value of two bytes becomes a field of forty.
const VALUES_MAX: usize = 2_000_000;

/// Why an incident would outgrow its text; an exported row must be readable, by us too.
pub fn check_growth(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    let (mut at, mut digits, mut objects, mut values) = (0, 0, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at + 1),
            b'-' | b'0'..=b'9' => {
                let rest = bytes[at..].iter();
                let length = rest
                    .take_while(|byte| {
                        matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
                    })
                    .count();
                digits += digits_added(&text[at..at + length])?;
                at += length - 1;
            }
            b'{' => objects += 1,
            b',' => values += 1,
            _ => {}
        }
        at += 1;
    }
    match (digits, objects, values) {
        (DIGITS_ADDED_MAX.., ..) => {
            Err(format!("its numbers have more than {DIGITS_ADDED_MAX} digits when written out"))
        }
        (_, OBJECTS_MAX.., _) => Err(format!("it holds more than {OBJECTS_MAX} objects")),
        (.., VALUES_MAX..) => Err(format!("it holds more than {VALUES_MAX} values")),
        _ => Ok(()),
    }
}

/// The place of the quote that ends a string.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return at;
        }
        at += 2;
    }
    bytes.len()
}

/// How many digits a number has more when it is written out.
fn digits_added(number: &str) -> Result<u64, String> {
    /// A longer one is no `f64` unless most of it is a fraction.
    const SHORT: usize = 300;
    let exponent = number.split_once(['e', 'E']).map(|(_, exponent)| exponent);
    if (exponent.is_some() || number.len() > SHORT) && !number.parse().is_ok_and(f64::is_finite) {
        return Err("it holds a number that is too large".to_owned());
    }
    let exponent = exponent.map_or(Ok(0), str::parse::<i64>);
    exponent
        .map(i64::unsigned_abs)
        .map_err(|_| "it holds a number with an exponent that is too large".to_owned())
}
