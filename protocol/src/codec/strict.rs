//! A message has one shape: a struct is a map with the names of its fields, and a name is text.
//!
//! Serde's derived code also takes a struct from a list of its fields in their order, and a field or a variant from its number.
//! Formats without names need that. Here it would be a second language that no document describes, whose meaning changes with
//! the order of declarations. [`Strict`] wraps a deserializer, and all that it hands out, and refuses both.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, EnumAccess, Error as _, IgnoredAny, IntoDeserializer as _, MapAccess, SeqAccess,
        Unexpected, VariantAccess, Visitor,
    },
};

/// Reads a value by names alone.
pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::deserialize(Strict(deserializer))
}

/// A deserializer, a seed, or the access to entries, whose parts are wrapped too.
struct Strict<T>(T);

/// A visitor, with what it may be given.
struct Guard<V> {
    visitor: V,
    takes: Takes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// What the visitor wants.
    Anything,
    /// A map alone: one was asked for, or a struct.
    Entries,
    /// Text alone: the name of a field or of a variant was asked for.
    Name,
}

impl<V> Guard<V> {
    const fn new(visitor: V, takes: Takes) -> Self {
        Self { visitor, takes }
    }
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $kind:ty),*) $takes:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* Guard::new(visitor, Takes::$takes))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    forward! {
        deserialize_any() Anything;
        deserialize_bool() Anything;
        deserialize_i8() Anything;
        deserialize_i16() Anything;
        deserialize_i32() Anything;
        deserialize_i64() Anything;
        deserialize_i128() Anything;
        deserialize_u8() Anything;
        deserialize_u16() Anything;
        deserialize_u32() Anything;
        deserialize_u64() Anything;
        deserialize_u128() Anything;
        deserialize_f32() Anything;
        deserialize_f64() Anything;
        deserialize_char() Anything;
        deserialize_str() Anything;
        deserialize_string() Anything;
        deserialize_bytes() Anything;
        deserialize_byte_buf() Anything;
        deserialize_option() Anything;
        deserialize_unit() Anything;
        deserialize_unit_struct(name: &'static str) Anything;
        deserialize_newtype_struct(name: &'static str) Anything;
        deserialize_seq() Anything;
        deserialize_tuple(length: usize) Anything;
        deserialize_tuple_struct(name: &'static str, length: usize) Anything;
        deserialize_map() Entries;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) Entries;
        deserialize_identifier() Name;
        deserialize_ignored_any() Anything;
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Choice(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! forward_scalars {
    ($($method:ident($kind:ty) $unexpected:expr;)*) => {$(
        fn $method<E: de::Error>(self, value: $kind) -> Result<V::Value, E> {
            if self.takes == Takes::Name {
                let unexpected: fn($kind) -> Unexpected<'static> = $unexpected;
                return Err(E::invalid_type(unexpected(value), &self));
            }
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Guard<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(formatter)
    }

    forward_scalars! {
        visit_bool(bool) Unexpected::Bool;
        visit_i8(i8) |value| Unexpected::Signed(value.into());
        visit_i16(i16) |value| Unexpected::Signed(value.into());
        visit_i32(i32) |value| Unexpected::Signed(value.into());
        visit_i64(i64) Unexpected::Signed;
        visit_i128(i128) |_| Unexpected::Other("integer");
        visit_u8(u8) |value| Unexpected::Unsigned(value.into());
        visit_u16(u16) |value| Unexpected::Unsigned(value.into());
        visit_u32(u32) |value| Unexpected::Unsigned(value.into());
        visit_u64(u64) Unexpected::Unsigned;
        visit_u128(u128) |_| Unexpected::Other("integer");
        visit_f32(f32) |value| Unexpected::Float(value.into());
        visit_f64(f64) Unexpected::Float;
        visit_bytes(&[u8]) |_| Unexpected::Other("bytes");
        visit_borrowed_bytes(&'de [u8]) |_| Unexpected::Other("bytes");
        visit_byte_buf(Vec<u8>) |_| Unexpected::Other("bytes");
    }

    fn visit_char<E: de::Error>(self, value: char) -> Result<V::Value, E> {
        self.visitor.visit_char(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.visitor.visit_str(value)
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.visitor.visit_borrowed_str(value)
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<V::Value, E> {
        self.visitor.visit_string(value)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        if self.takes != Takes::Anything {
            return Err(E::invalid_type(Unexpected::Unit, &self));
        }
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Strict(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Strict(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        if self.takes != Takes::Anything {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        self.visitor.visit_seq(Strict(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Strict(entries))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Strict(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

/// A visitor that wants a variant: a name alone, or one name with its content.
struct Choice<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Choice<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<V::Value, E> {
        self.0.visit_enum(name.into_deserializer())
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Named(entries))
    }
}

/// A map with one entry: the name of a variant, and its content.
struct Named<A>(A);

impl<'de, A: MapAccess<'de>> Named<A> {
    fn only<T>(mut self, content: T) -> Result<T, A::Error> {
        match self.0.next_key::<IgnoredAny>()? {
            None => Ok(content),
            Some(_) => Err(A::Error::custom("one name is expected, and there are several")),
        }
    }
}

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for Named<A> {
    type Error = A::Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<(S::Value, Self), A::Error> {
        let name = self.0.next_key_seed(Strict(seed))?;
        name.map(|name| (name, self)).ok_or_else(|| A::Error::custom("a name is expected, and there is none"))
    }
}

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for Named<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        Err(A::Error::invalid_type(Unexpected::Map, &"the name alone, as text"))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<S::Value, A::Error> {
        let content = self.0.next_value_seed(Strict(seed))?;
        self.only(content)
    }

    fn tuple_variant<V: Visitor<'de>>(mut self, _: usize, visitor: V) -> Result<V::Value, A::Error> {
        let content = self.0.next_value_seed(Content(Guard::new(visitor, Takes::Anything)))?;
        self.only(content)
    }

    fn struct_variant<V: Visitor<'de>>(mut self, _: &'static [&'static str], visitor: V) -> Result<V::Value, A::Error> {
        let content = self.0.next_value_seed(Content(Guard::new(visitor, Takes::Entries)))?;
        self.only(content)
    }
}

/// A visitor as the seed of a variant's content.
struct Content<V>(Guard<V>);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Content<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::{Value, json};

    use crate::{
        codec::Format,
        message::{Condition, ContextRequest, ContextStore, Scope},
    };

    fn refusals<T: DeserializeOwned>(message: &impl Serialize) -> [String; 2] {
        [Format::Json, Format::MessagePack].map(|format| {
            let error = format.decode::<T>(&format.encode(message)).err().expect("a refusal");
            assert!(error.well_formed, "{error}");
            error.to_string()
        })
    }

    #[test]
    fn a_list_is_no_struct_at_any_depth() {
        for error in refusals::<Scope>(&json!(["planner", null, null])) {
            assert!(error.contains("invalid type: sequence, expected struct Scope"), "{error}");
        }
        for error in refusals::<ContextStore>(&json!({"text": "a", "scope": ["planner"]})) {
            assert!(error.contains("at scope") && error.contains("sequence"), "{error}");
        }
        for error in refusals::<ContextRequest>(&json!({"query": "a", "scopes": [{"space": "team"}, ["planner"]]})) {
            assert!(error.contains("at scopes[1]"), "{error}");
        }
        refusals::<ContextRequest>(&json!({"query": "a", "filter": {"n": {"range": [1, 2]}}}));
    }

    #[test]
    fn nothing_is_no_map() {
        for error in refusals::<ContextStore>(&json!({"text": "a", "metadata": null})) {
            assert!(error.contains("at metadata"), "{error}");
        }
    }

    #[test]
    fn a_number_is_no_name() {
        let by_number: std::collections::BTreeMap<u8, &str> = [(0, "a"), (1, "b")].into();
        let bytes = Format::MessagePack.encode(&by_number);
        let error = Format::MessagePack.decode::<Scope>(&bytes).expect_err("fields by number").to_string();
        assert!(error.contains("integer `0`"), "{error}");
        for error in refusals::<ContextStore>(&json!({"text": "a", "level": 1})) {
            assert!(error.contains("at level") && error.contains('1'), "{error}");
        }
    }

    #[test]
    fn a_variant_has_one_form() {
        refusals::<ContextStore>(&json!({"text": "a", "level": {"long_term": null}}));
        refusals::<Condition>(&json!("eq"));
        refusals::<Condition>(&json!({}));
        refusals::<Condition>(&json!({"eq": 1, "any": [1]}));
        for condition in [json!({"eq": [1, {"a": "b"}]}), json!({"any": []}), json!({"range": {"gte": 1.5}})] {
            for format in [Format::Json, Format::MessagePack] {
                let read: Condition = format.decode(&format.encode(&condition)).expect("a condition");
                assert_eq!(serde_json::to_value(read).expect("JSON"), condition);
            }
        }
    }

    #[test]
    fn lists_and_numbers_stay_what_they_are_elsewhere() {
        let message = json!({"text": "a", "metadata": {"l": [1, [2.5, null, {"x": []}]], "1": true}});
        for format in [Format::Json, Format::MessagePack] {
            let read: ContextStore = format.decode(&format.encode(&message)).expect("a message");
            assert_eq!(Value::Object(read.metadata), message["metadata"]);
        }
    }
}
