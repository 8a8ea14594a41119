//! Rows as arguments of statements: an array for each column, or, for the two widest tables, one array of composite values.

use std::borrow::Cow;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::{Oid, PgRecordEncoder};
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgHasArrayType, PgTypeInfo};
use sqlx::query::Query;
use sqlx::{Encode, Postgres, Type};

use crate::incident::columns::{Columns, Value};
use crate::incident::rows::{AlertRow, EvidenceRow};

/// Postgres's text form of a `text[]`: arrays of arrays cannot be unnested by row.
fn array_literal(values: &[Cow<'_, str>]) -> String {
    let mut literal = String::from("{");
    for (at, value) in values.iter().enumerate() {
        literal.push_str(if at == 0 { "\"" } else { ",\"" });
        for character in value.chars() {
            if matches!(character, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(character);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

/// JSON as the text that it came in: the server checks its syntax and stores it as it is.
pub(super) struct JsonText<'a>(pub(super) &'a str);

/// Fixed in `pg_type.dat`.
const JSON: PgTypeInfo = PgTypeInfo::with_oid(Oid(114));
const JSON_ARRAY: PgTypeInfo = PgTypeInfo::with_oid(Oid(199));

impl Type<Postgres> for JsonText<'_> {
    fn type_info() -> PgTypeInfo {
        JSON
    }
}

impl PgHasArrayType for JsonText<'_> {
    fn array_type_info() -> PgTypeInfo {
        JSON_ARRAY
    }
}

impl Encode<'_, Postgres> for JsonText<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

/// `defender.alert_record_3`: the row in the order of the type.
pub(super) struct AlertRecord<'r>(pub(super) &'r AlertRow<'r>);

impl Encode<'_, Postgres> for AlertRecord<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let AlertRow { alert_id, incident_id, last_seen, columns, devices_without_id, extra } =
            self.0;
        let mut record = PgRecordEncoder::new(buffer);
        record.encode(alert_id.as_ref())?;
        record.encode(*incident_id)?;
        encode_columns(&mut record, columns)?;
        record.encode(*last_seen)?;
        record.encode(*devices_without_id)?;
        record.encode(extra.as_deref())?;
        record.finish();
        Ok(IsNull::No)
    }
}

/// `defender.evidence_record_2`: the row in the order of the type.
pub(super) struct EvidenceRecord<'r>(pub(super) &'r EvidenceRow<'r>);

impl Encode<'_, Postgres> for EvidenceRecord<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let EvidenceRow { alert_id, evidence_hash, columns, extra } = self.0;
        let mut record = PgRecordEncoder::new(buffer);
        record.encode(alert_id.as_ref())?;
        record.encode(&evidence_hash[..])?;
        encode_columns(&mut record, columns)?;
        record.encode(extra.as_deref())?;
        record.finish();
        Ok(IsNull::No)
    }
}

fn encode_columns(
    record: &mut PgRecordEncoder<'_>,
    columns: &impl Columns,
) -> Result<(), BoxDynError> {
    for value in columns.values() {
        match value {
            Value::Text(text) => record.encode(text)?,
            Value::Texts(texts) => record.encode(texts.map(array_literal))?,
            Value::Number(number) => record.encode(number)?,
            Value::Time(time) => record.encode(time)?,
        };
    }
    Ok(())
}

macro_rules! composite {
    ($record:ident, $name:literal) => {
        impl Type<Postgres> for $record<'_> {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_name($name)
            }
        }

        impl PgHasArrayType for $record<'_> {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::array_of($name)
            }
        }
    };
}
composite!(AlertRecord, "defender.alert_record_3");
composite!(EvidenceRecord, "defender.evidence_record_2");

/// Binds one array for each column, in their order; arrays of arrays as text.
pub(super) fn bind_columns<'q, 'r: 'q, C: Columns + 'r>(
    mut query: Query<'q, Postgres, PgArguments>,
    rows: impl Iterator<Item = &'r C>,
) -> Query<'q, Postgres, PgArguments> {
    let rows: Vec<Vec<Value<'r>>> = rows.map(|columns| columns.values().collect()).collect();
    for (at, kind) in C::default().values().enumerate() {
        let values = rows.iter().map(|row| row[at]);
        query = match kind {
            Value::Text(_) => query.bind(values.map(Value::text).collect::<Vec<_>>()),
            Value::Number(_) => query.bind(values.map(Value::number).collect::<Vec<_>>()),
            Value::Time(_) => query.bind(values.map(Value::time).collect::<Vec<_>>()),
            Value::Texts(_) => {
                let literals = values.map(|value| value.texts().map(array_literal));
                query.bind(literals.collect::<Vec<_>>())
            }
        };
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_literal_escapes_quotes_and_backslashes() {
        let values = [
            Cow::Borrowed("a\"b"),
            Cow::Borrowed("c\\d"),
            Cow::Borrowed("NULL, {e}"),
            Cow::Borrowed(""),
        ];
        assert_eq!(array_literal(&values), r#"{"a\"b","c\\d","NULL, {e}",""}"#);
        assert_eq!(array_literal(&[]), "{}");
    }
}
