//! Embedding models as a store knows them: vectors of different models are never compared, and never lie under one name.

use super::schema;
use crate::Leg;

/// A model, told from others by its name and the length of its vectors.
///
/// ```
/// use context_manager_memory::store::Model;
///
/// let model = Model { name: "all-MiniLM-L6-v2".to_owned(), dimensions: 384 };
/// assert_eq!(model.to_string(), "all-MiniLM-L6-v2 with 384 dimensions");
/// assert_ne!(model.tag(), Model { dimensions: 512, ..model.clone() }.tag());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// The length of its vectors.
    pub dimensions: usize,
}

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, dimensions } = self;
        write!(f, "{name} with {dimensions} dimensions")
    }
}

impl Model {
    /// A short text without special characters that is another one for another model.
    #[must_use]
    pub fn tag(&self) -> String {
        let Self { name, dimensions } = self;
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(format!("{dimensions} {name}").as_bytes()))
    }
}

/// The names of one model's dense vectors in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenseNames {
    /// Of the vectors of the contexts' own texts.
    pub own: String,
    /// Of the vectors of the same texts with the previous ones.
    pub with_previous: String,
}

impl Default for DenseNames {
    /// The plain names.
    fn default() -> Self {
        Self { own: schema::DENSE_SELF.to_owned(), with_previous: schema::DENSE_CTX.to_owned() }
    }
}

impl DenseNames {
    /// The names of a model that shares a store with others.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        let tag = model.tag();
        Self { own: format!("{}_{tag}", schema::DENSE_SELF), with_previous: format!("{}_{tag}", schema::DENSE_CTX) }
    }

    /// Both.
    #[must_use]
    pub fn both(&self) -> [&str; 2] {
        [&self.own, &self.with_previous]
    }

    /// The name of the vectors that a leg compares with; the lexical ones have the same under every model.
    #[must_use]
    pub fn name_of(&self, leg: Leg) -> &str {
        match leg {
            Leg::DenseSelf => &self.own,
            Leg::DenseCtx => &self.with_previous,
            Leg::SparseSelf => schema::SPARSE_SELF,
            Leg::SparseCtx => schema::SPARSE_CTX,
        }
    }

    /// Whether a store's vector is a dense one of ours, whichever model's.
    #[must_use]
    pub fn are_any(name: &str) -> bool {
        [schema::DENSE_SELF, schema::DENSE_CTX]
            .into_iter()
            .any(|plain| name.strip_prefix(plain).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
    }
}

/// What is done with a store whose vectors are another model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnModelChange {
    /// It is refused and left as it is.
    #[default]
    Refuse,
    /// Its contexts stay, and get vectors of the new model one after the other beside those that they have.
    ReEmbed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_differ_and_are_known_as_ours() {
        let [a, b] = ["a", "b"].map(|name| DenseNames::of(&Model { name: name.to_owned(), dimensions: 4 }));
        let names: std::collections::BTreeSet<_> =
            [a.both(), b.both(), DenseNames::default().both()].concat().into_iter().map(str::to_owned).collect();
        assert_eq!(names.len(), 6, "{names:?}");
        assert!(names.iter().all(|name| DenseNames::are_any(name)), "{names:?}");
        let [own, with_previous] = a.both();
        let of_legs = Leg::ALL.map(|leg| a.name_of(leg));
        assert_eq!(of_legs, [own, with_previous, schema::SPARSE_SELF, schema::SPARSE_CTX]);
        assert!(!["dense", "dense_selfish", schema::SPARSE_SELF].into_iter().any(DenseNames::are_any));
    }
}
