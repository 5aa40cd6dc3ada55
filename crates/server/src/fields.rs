//! Request bodies: JSON objects whose every field is known.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{ApiError, Result};
use crate::state::Server;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

/// What can be made of the fields of a body.
pub(crate) trait FromFields: Sized {
    fn from_fields(fields: Map<String, Value>) -> Result<Self>;
}

/// A body, read and understood.
pub(crate) struct Fields<T>(pub T);

impl<T: FromFields> FromRequest<Arc<Server>> for Fields<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self> {
        let bytes = read(request, server.config.max_body).await?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?;
        drop(bytes);
        match value {
            Value::Object(fields) => T::from_fields(fields).map(Self),
            _ => Err(ApiError::bad_request("the body should be a JSON object")),
        }
    }
}

async fn read(request: Request, max: usize) -> Result<axum::body::Bytes> {
    let headers = request.headers();
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let message = "the body should be plain: no Content-Encoding is accepted";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let too_large =
        || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {max} bytes"));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > max as u64) {
        return Err(too_large());
    }
    let body = tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), max)).await;
    match body {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::bad_request("the body broke off")),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// Deserialises, and says which field is wrong.
pub(crate) fn parse<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let (path, message) = (error.path().to_string(), error.inner().to_string());
        // Serde reports a field that is not known at the place that holds it.
        let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        match unknown {
            Some(name) => {
                let place = path.strip_suffix(name).map_or(path.as_str(), |p| p.trim_end_matches('.'));
                let place =
                    if place.is_empty() || place == "." { String::new() } else { format!("{place}.") };
                let param = format!("{place}{name}");
                let message = format!("`{param}` is not known here, and would change what the answer means");
                ApiError { code: Some("unknown_field"), ..ApiError::field(param, message) }
            }
            None if path == "." => ApiError::bad_request(message),
            None => ApiError::field(path.clone(), format!("{path}: {message}")),
        }
    })
}

/// Splits `fields` into those that `T` has and the rest, so that several
/// requests can share a group of fields and still refuse unknown ones.
pub(crate) fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>) -> Result<T> {
    let mut own = Map::new();
    for name in names_of::<T>() {
        if let Some(value) = fields.remove(*name) {
            own.insert((*name).to_owned(), value);
        }
    }
    parse(own)
}

/// The names of a struct's fields, as its derived `Deserialize` tells them.
fn names_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    struct Probe<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = de::value::Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(de::Error::custom("only the names were wanted"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("not a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
            unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // Always the error above.
    let _ = T::deserialize(Probe(&mut names));
    names
}

/// Takes out fields that mean nothing here, whatever they hold.
pub(crate) fn accept(fields: &mut Map<String, Value>, names: &[&str]) {
    fields.retain(|name, _| !names.contains(&name.as_str()));
}

/// The value of a field that is accepted and means nothing here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl PartialSchema for Ignored {
    fn schema() -> RefOr<Schema> {
        utoipa::openapi::schema::empty().into()
    }
}

impl ToSchema for Ignored {}

/// The schema of a request made of two groups of fields.
pub(crate) fn merged<A: PartialSchema, B: PartialSchema>() -> RefOr<Schema> {
    match (A::schema(), B::schema()) {
        (RefOr::T(Schema::Object(mut a)), RefOr::T(Schema::Object(b))) => {
            a.properties.extend(b.properties);
            a.required.extend(b.required);
            a.into()
        }
        (a, _) => a,
    }
}

/// Two groups of fields as one, to [merge](merged) with a third.
pub(crate) struct Both<A, B>(PhantomData<(A, B)>);

impl<A: PartialSchema, B: PartialSchema> PartialSchema for Both<A, B> {
    fn schema() -> RefOr<Schema> {
        merged::<A, B>()
    }
}

/// One or several.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> From<OneOrMany<T>> for Vec<T> {
    fn from(value: OneOrMany<T>) -> Self {
        match value {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "x")]
        _x: u8,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default, rename = "list")]
        _list: Vec<Inner>,
        #[serde(default, rename = "user")]
        _user: Ignored,
    }

    fn param(value: Value) -> Option<String> {
        let Value::Object(fields) = value else { panic!("an object is given") };
        parse::<Outer>(fields).expect_err("something is wrong").param
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(param(json!({"list": [{"x": 1}, {"x": 300}]})).as_deref(), Some("list[1].x"));
        assert_eq!(param(json!({"nope": 1})).as_deref(), Some("nope"));
        assert_eq!(param(json!({"list": [{"x": 1, "nope": 1}]})).as_deref(), Some("list[0].nope"));
        assert_eq!(param(json!({"list": 1, "user": [[]]})).as_deref(), Some("list"));
    }

    #[test]
    fn groups_take_their_own_fields() {
        assert_eq!(names_of::<Outer>(), ["list", "user"]);
        let Value::Object(mut fields) = json!({"list": [], "other": 1}) else { unreachable!() };
        take::<Outer>(&mut fields).expect("nothing is wrong");
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["other"]);
    }
}
