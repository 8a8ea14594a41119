//! JSON values taken leniently. A value that is missing, null or of another type becomes `None`; the latter is also named in
//! `mistyped`. Unknown fields are kept. Only text that is no JSON object at all fails.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use chrono::{DateTime, Datelike, NaiveDateTime, SubsecRound, TimeZone, Timelike, Utc};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of the wanted type, or word that it was not there or something else.
pub(super) enum Lenient<T> {
    Value(T),
    Null,
    Mistyped,
}

impl<T> Lenient<T> {
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Null | Self::Mistyped => None,
        }
    }
}

/// What a type makes of each kind of JSON value; the defaults refuse it.
pub(super) trait FromJson<'de>: Sized {
    fn from_text(_: Cow<'de, str>) -> Option<Self> {
        None
    }
    fn from_integer(_: i64) -> Option<Self> {
        None
    }
    fn from_float(_: f64) -> Option<Self> {
        None
    }
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    /// Elements of a list that are of another type.
    fn left_out(&self) -> usize {
        0
    }
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<'de, T: FromJson<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor(PhantomData))
    }
}

struct LenientVisitor<T>(PhantomData<T>);

fn lenient<T>(value: Option<T>) -> Lenient<T> {
    value.map_or(Lenient::Mistyped, Lenient::Value)
}

impl<'de, T: FromJson<'de>> Visitor<'de> for LenientVisitor<T> {
    type Value = Lenient<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Null)
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(lenient(T::from_text(Cow::Borrowed(text))))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(lenient(T::from_text(Cow::Owned(text.to_owned()))))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(lenient(T::from_integer(number)))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(lenient(i64::try_from(number).ok().and_then(T::from_integer)))
    }
    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(lenient(T::from_float(number)))
    }
    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(lenient(T::from_bool(truth)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::from_list(list).map(lenient)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::from_object(object).map(lenient)
    }
}

/// Text; numbers and booleans are taken as they are written.
impl<'de> FromJson<'de> for Cow<'de, str> {
    fn from_text(text: Cow<'de, str>) -> Option<Self> {
        Some(text)
    }
    fn from_integer(number: i64) -> Option<Self> {
        Some(Cow::Owned(number.to_string()))
    }
    fn from_float(number: f64) -> Option<Self> {
        Some(Cow::Owned(number.to_string()))
    }
    fn from_bool(truth: bool) -> Option<Self> {
        Some(Cow::Owned(truth.to_string()))
    }
}

/// Whole numbers, also as text or with a fraction of zero.
impl FromJson<'_> for i64 {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        text.trim().parse().ok()
    }
    fn from_integer(number: i64) -> Option<Self> {
        Some(number)
    }
    #[expect(clippy::cast_possible_truncation, reason = "guarded by the round trip")]
    fn from_float(number: f64) -> Option<Self> {
        let whole = number as Self;
        // 2^53 bounds what a double holds exactly.
        (number.abs() < 9_007_199_254_740_992.0 && whole as f64 == number).then_some(whole)
    }
}

/// A time of the API, truncated down to what Postgres keeps. .NET's year 0001 means "none", as do impossible dates.
impl FromJson<'_> for DateTime<Utc> {
    fn from_text(text: Cow<'_, str>) -> Option<Self> {
        time(&text)
    }
}

pub(super) fn time(text: &str) -> Option<DateTime<Utc>> {
    let parsed = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.with_timezone(&Utc),
        // No zone was never seen; UTC is the only zone that the API speaks.
        Err(_) => Utc
            .from_utc_datetime(&NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?),
    };
    // A leap second would become the next second in Postgres, later than it was served, and then always look changed.
    let parsed = parsed.with_nanosecond(parsed.nanosecond().min(999_999_999))?;
    (2..=9999).contains(&parsed.year()).then(|| parsed.trunc_subsecs(6))
}

/// A list; elements of another type are left out.
impl<'de, T: FromJson<'de>> FromJson<'de> for Vec<T> {
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut elements = Self::new();
        while let Some(element) = list.next_element::<Lenient<T>>()? {
            if let Lenient::Value(element) = element {
                elements.push(element);
            }
        }
        Ok(Some(elements))
    }
}

/// A list of objects; elements that are none are left out and counted.
#[derive(Debug)]
pub(super) struct Objects<T> {
    objects: Vec<T>,
    left_out: usize,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self { objects: Vec::new(), left_out: 0 }
    }
}

impl<T> Deref for Objects<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.objects
    }
}

impl<T> IntoIterator for Objects<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.objects.into_iter()
    }
}

impl<'de, T: FromJson<'de>> FromJson<'de> for Objects<T> {
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut elements = Self::default();
        while let Some(element) = list.next_element::<Lenient<T>>()? {
            match element {
                Lenient::Value(object) => elements.objects.push(object),
                Lenient::Null | Lenient::Mistyped => elements.left_out += 1,
            }
        }
        Ok(Some(elements))
    }
    fn left_out(&self) -> usize {
        self.left_out
    }
}

/// Defines an object of an API by its JSON keys: those of its table's columns, and the others with their types. Each is
/// optional, and the last of a repeated key wins.
macro_rules! api_object {
    ($(#[$about:meta])* $name:ident {
        columns: $columns:ident { $($column_key:literal => $column:ident,)* }
        $($key:literal => $field:ident: $kind:ty,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            pub(super) columns: $columns<'a>,
            $(pub(super) $field: Option<$kind>,)*
            /// Keys that are not known here, with their JSON text.
            pub(super) unknown: Vec<(Cow<'a, str>, &'a RawValue)>,
            /// Known keys whose value had another type.
            pub(super) mistyped: Vec<&'static str>,
        }

        impl<'de> FromJson<'de> for $name<'de> {
            fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
                let mut decoded = Self::default();
                while let Some(key) = object.next_key::<Key<'de>>()? {
                    match key.0.as_ref() {
                        $($column_key => {
                            let value = object.next_value()?;
                            decoded.columns.$column = take($column_key, value, &mut decoded.mistyped);
                        })*
                        $($key => {
                            let value = object.next_value()?;
                            decoded.$field = take($key, value, &mut decoded.mistyped);
                        })*
                        _ => decoded.unknown.push((key.0, object.next_value()?)),
                    }
                }
                Ok(Some(decoded))
            }
        }
    };
}
pub(super) use api_object;

/// The value of a key, which is noted where it has another type, and once for each element that was left out of it.
pub(super) fn take<'de, T: FromJson<'de>>(
    key: &'static str,
    value: Lenient<T>,
    mistyped: &mut Vec<&'static str>,
) -> Option<T> {
    let left_out = match &value {
        Lenient::Value(value) => value.left_out(),
        Lenient::Null => 0,
        Lenient::Mistyped => 1,
    };
    mistyped.extend(std::iter::repeat_n(key, left_out));
    value.value()
}

/// A key, borrowed from the text where it holds no escape.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}
