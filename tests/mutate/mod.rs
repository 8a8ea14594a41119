//! Broken documents for the fuzz tests, beside the code and end to end: JSON that stays nearly what it was.
//!
//! Everything follows from a seed. A failing one is printed; `FUZZ_SEED=<seed>` with the test's name runs it alone.
//! `PROPTEST_CASES` says how many are tried.

use fastrand::Rng;
use serde_json::Value;

/// Runs `check` with so many seeds, or as many as `PROPTEST_CASES` says, or with the one of `FUZZ_SEED` alone.
pub(crate) fn each_seed(cases: u64, mut check: impl FnMut(u64)) {
    if let Some(seed) = variable("FUZZ_SEED") {
        return check(seed);
    }
    for _ in 0..variable("PROPTEST_CASES").unwrap_or(cases) {
        let seed = PrintedSeed(fastrand::u64(..));
        check(seed.0);
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("the variable is a number"))
}

/// Prints the seed when its check fails.
struct PrintedSeed(u64);

impl Drop for PrintedSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed: run this test again with FUZZ_SEED={}", self.0);
        }
    }
}

pub(crate) fn pick<'a>(random: &mut Rng, choices: &[&'a str]) -> &'a str {
    choices[random.usize(..choices.len())]
}

/// JSON that may say what a parser's tree cannot: keys twice, numbers of any size, escapes that mean nothing.
#[derive(Clone)]
pub(crate) enum Json {
    /// A string, number or word as it is written.
    Scalar(String),
    List(Vec<Json>),
    /// Keys as they are written.
    Object(Vec<(String, Json)>),
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        match value {
            Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            Value::Object(object) => Self::Object(
                object.iter().map(|(key, value)| (format!("{key:?}"), Self::from(value))).collect(),
            ),
            scalar => Self::Scalar(scalar.to_string()),
        }
    }
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scalar(text) => f.write_str(text),
            Self::List(list) => {
                for (at, element) in list.iter().enumerate() {
                    write!(f, "{}{element}", if at == 0 { "[" } else { "," })?;
                }
                f.write_str(if list.is_empty() { "[]" } else { "]" })
            }
            Self::Object(object) => {
                for (at, (key, value)) in object.iter().enumerate() {
                    write!(f, "{}{key}:{value}", if at == 0 { "{" } else { "," })?;
                }
                f.write_str(if object.is_empty() { "{}" } else { "}" })
            }
        }
    }
}

/// Malformed and unusual times.
pub(crate) const ODD_TIMES: &[&str] = &[
    "0001-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "-0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.9999999Z",
    "9999-12-31T23:59:59.9999999-14:00",
    "10000-01-01T00:00:00Z",
    "2020-09-06T14:46:59.9999999Z",
    "2020-09-06T14:46:57.12345678901234567890Z",
    "2016-12-31T23:59:60Z",
    "2016-12-31T23:59:60.9999999Z",
    "2020-09-06T14:46:60",
    "2020-09-06T24:00:00Z",
    "2020-09-06T14:46:57",
    "2020-09-06T14:46:57.1",
    "2020-09-06 14:46:57Z",
    "2020-09-06T14:46:57+02:00",
    "2020-09-06T14:46:57-23:59",
    "2021-02-30T00:00:00Z",
    "1900-02-29T00:00:00Z",
    "2020-09-06T14:46Z",
    "2020-09-06",
    "/Date(1599403617000)/",
    "",
];

const ODD_NUMBERS: &[&str] = &[
    "0",
    "-0",
    "-1",
    "1.0",
    "0.1",
    "7.0000000000000001",
    "2147483648",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551616",
    "1e400",
    "-1e400",
    "1e-400",
    "1e18",
    "1e19",
    "1E+3",
];

const ODD_STRINGS: &[&str] = &[
    r"",
    r" ",
    r"7",
    r"null",
    r"a\u0000b",
    r"\u0000",
    r"\ud800",
    r"\udfff",
    r"\udc00\ud83d\ude00",
    r"\ud83d",
    r"\ud83d\ud83d\ude00",
    r"\\u0000",
    r"\\\u0000",
    r"\ufeff",
    "\u{feff}",
    "\u{202e}\u{200b}",
    r"\uFFFE\uffff",
    r#"'; -- \" \\ "#,
    r"{1,NULL}",
    r"\n\r\t\b\f\/",
    "=cmd()",
    "fe80::1%eth0",
    "\u{10ffff}",
];

/// Something else in the place of a value.
fn odd_value(random: &mut Rng) -> Json {
    match random.usize(..14) {
        0 => Json::Scalar("null".to_owned()),
        1 => Json::Scalar(pick(random, &["true", "false"]).to_owned()),
        2..=4 => Json::Scalar(pick(random, ODD_NUMBERS).to_owned()),
        5 | 6 => Json::Scalar(format!("\"{}\"", pick(random, ODD_TIMES))),
        7 => Json::List(Vec::new()),
        8 => Json::Object(Vec::new()),
        9 => {
            let key = format!("\"{}\"", pick(random, ODD_STRINGS));
            Json::Object(vec![(key, Json::Scalar(pick(random, ODD_NUMBERS).to_owned()))])
        }
        10 => {
            let length = 1 + random.usize(..20_000);
            let text: String = (0..length).map(|_| random.lowercase()).collect();
            Json::Scalar(format!("\"{text}\""))
        }
        11 => {
            let depth = 1 + random.usize(..400);
            let (open, close) = if random.usize(..2) == 0 { ("[", "]") } else { (r#"{"a":"#, "}") };
            Json::Scalar(format!("{}1{}", open.repeat(depth), close.repeat(depth)))
        }
        _ => Json::Scalar(format!("\"{}\"", pick(random, ODD_STRINGS))),
    }
}

impl Json {
    pub(crate) fn of(text: &str) -> Self {
        Self::from(
            &serde_json::from_str::<Value>(text).expect("the document is good before it is broken"),
        )
    }

    /// The elements of the list with this key.
    pub(crate) fn list(&self, key: &str) -> &[Self] {
        let Self::Object(object) = self else { return &[] };
        let found = object.iter().find_map(|(name, value)| match value {
            Self::List(list) if name.trim_matches('"') == key => Some(list),
            _ => None,
        });
        found.map_or(&[], Vec::as_slice)
    }

    fn len(&self) -> usize {
        match self {
            Self::Scalar(_) => 0,
            Self::List(list) => list.len(),
            Self::Object(object) => object.len(),
        }
    }

    /// Any value inside, those near the top as likely as those far down.
    fn anywhere(&mut self, random: &mut Rng) -> &mut Self {
        let mut at = self;
        while at.len() > 0 && random.usize(..5) > 0 {
            let inside = random.usize(..at.len());
            at = match at {
                Self::Scalar(_) => unreachable!("a scalar holds nothing"),
                Self::List(list) => &mut list[inside],
                Self::Object(object) => &mut object[inside].1,
            };
        }
        at
    }

    /// Breaks one thing.
    pub(crate) fn mutate(&mut self, random: &mut Rng) {
        let elsewhere = self.anywhere(random).clone();
        let place = self.anywhere(random);
        let inside = random.usize(..place.len().max(1));
        let is_empty = place.len() == 0;
        match (place, random.usize(..8)) {
            (place, 0 | 1) => *place = odd_value(random),
            (place, 2) => *place = elsewhere,
            (place, _) if is_empty => *place = odd_value(random),
            (Self::Scalar(_), _) => unreachable!("a scalar holds nothing"),
            (Self::List(list), 3) => drop(list.remove(inside)),
            (Self::List(list), 4) => list.push(odd_value(random)),
            (Self::List(list), _) => list.push(list[inside].clone()),
            (Self::Object(object), 3) => drop(object.remove(inside)),
            (Self::Object(object), 4) => object.push((object[inside].0.clone(), odd_value(random))),
            (Self::Object(object), 5) => {
                object[inside].0 = format!("\"{}\"", pick(random, ODD_STRINGS));
            }
            (Self::Object(object), 6) => {
                let other = random.usize(..object.len());
                object.swap(inside, other);
            }
            (Self::Object(object), _) => object[inside].1 = odd_value(random),
        }
    }

    /// Breaks up to four things.
    pub(crate) fn mutated(&self, random: &mut Rng) -> Self {
        let mut broken = self.clone();
        for _ in 0..1 + random.usize(..4) {
            broken.mutate(random);
        }
        broken
    }
}

/// The text with a few bytes lost, changed or cut off; what is no UTF-8 any more is replaced, as for a body.
pub(crate) fn garbled(text: &str, random: &mut Rng) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + random.usize(..3) {
        let at = random.usize(..bytes.len().max(1));
        match random.usize(..5) {
            _ if bytes.is_empty() => {}
            0 => bytes.truncate(at),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, random.u8(..)),
            3 => bytes.splice(at..at, "\u{feff}".bytes()).for_each(drop),
            _ => bytes[at] = br#"{}[]",:\0e"#[random.usize(..10)],
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
