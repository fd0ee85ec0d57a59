//! The `ContextManager`s of a place as injection sees them, by namespace. They are read when they come, so that an admission neither
//! passes those of other namespaces nor reads one again; of the objects themselves nothing is kept.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use kube::{ResourceExt, runtime::watcher::Event};

use super::view;
use crate::{inject::Resource, slim::Slim};

type ByNamespace = HashMap<String, Arc<[Resource]>>;

/// What is known.
#[derive(Default)]
pub(super) struct Known {
    by_namespace: RwLock<ByNamespace>,
    listed: AtomicBool,
}

/// The one that tells.
pub(super) struct Writer {
    known: Arc<Known>,
    /// What a list that has not ended has brought.
    listing: BTreeMap<String, BTreeMap<String, Resource>>,
}

impl Known {
    /// Those of a namespace, by name; nothing when there are none.
    pub(super) fn in_namespace(&self, namespace: &str) -> Option<Arc<[Resource]>> {
        self.by_namespace.read().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned()
    }

    /// Whether they have been listed once.
    pub(super) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.by_namespace.read().unwrap_or_else(PoisonError::into_inner).values().map(|here| here.len()).sum()
    }

    fn change(&self, change: impl FnOnce(&mut ByNamespace)) {
        change(&mut self.by_namespace.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Replaces what has this name by `now`.
    fn replace(&self, namespace: String, name: &str, now: Option<Resource>) {
        self.change(|all| {
            let before = all.get(&namespace).map_or(&[][..], |here| here);
            let mut here: Vec<_> = before.iter().filter(|resource| resource.name != name).cloned().collect();
            here.extend(now);
            here.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            if here.is_empty() {
                all.remove(&namespace);
            } else {
                all.insert(namespace, here.into());
            }
        });
    }
}

impl Writer {
    /// Tells `known`.
    pub(super) fn new(known: Arc<Known>) -> Self {
        Self { known, listing: BTreeMap::new() }
    }

    /// Takes over what a watch brings. What was known stays known until a new list is complete.
    pub(super) fn take(&mut self, event: Event<Slim>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                if let Some(resource) = view::resource(&object.0) {
                    let here = self.listing.entry(object.namespace().unwrap_or_default()).or_default();
                    here.insert(resource.name.clone(), resource);
                }
            }
            Event::InitDone => {
                let listing = std::mem::take(&mut self.listing);
                let listed = listing.into_iter().map(|(namespace, here)| (namespace, here.into_values().collect()));
                self.known.change(|all| *all = listed.collect());
                self.known.listed.store(true, Ordering::Release);
            }
            Event::Apply(object) => {
                let now = view::resource(&object.0);
                self.known.replace(object.namespace().unwrap_or_default(), &object.name_any(), now);
            }
            Event::Delete(object) => {
                self.known.replace(object.namespace().unwrap_or_default(), &object.name_any(), None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, port: u16) -> Slim {
        let object = json!({
            "apiVersion": "contextmanager.dev/v1alpha1",
            "kind": "ContextManager",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"sidecar": {"protocolPort": port}},
        });
        serde_json::from_value(object).expect("an object")
    }

    fn seen(known: &Known, namespace: &str) -> Vec<(String, u16)> {
        let here = known.in_namespace(namespace);
        here.iter().flat_map(|here| here.iter()).map(|found| (found.name.clone(), found.protocol_port)).collect()
    }

    #[test]
    fn a_list_counts_when_it_is_complete_and_replaces_what_was_known() {
        let known = Arc::new(Known::default());
        let mut writer = Writer::new(Arc::clone(&known));
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("team", "b", 1)));
        writer.take(Event::InitApply(object("team", "a", 2)));
        writer.take(Event::InitApply(object("other", "a", 3)));
        assert!(!known.is_listed() && seen(&known, "team").is_empty());
        writer.take(Event::InitDone);
        assert!(known.is_listed());
        assert_eq!(seen(&known, "team"), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!((seen(&known, "other"), known.count()), (vec![("a".to_owned(), 3)], 3));
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("team", "b", 4)));
        assert_eq!(known.count(), 3, "an interrupted list takes nothing away");
        writer.take(Event::Init);
        writer.take(Event::InitApply(object("team", "c", 5)));
        writer.take(Event::InitDone);
        assert_eq!((seen(&known, "team"), known.count()), (vec![("c".to_owned(), 5)], 1));
    }

    #[test]
    fn what_is_changed_or_deleted_is_known_at_once() {
        let known = Arc::new(Known::default());
        let mut writer = Writer::new(Arc::clone(&known));
        writer.take(Event::Apply(object("team", "b", 1)));
        writer.take(Event::Apply(object("team", "a", 2)));
        writer.take(Event::Apply(object("team", "b", 3)));
        assert_eq!(seen(&known, "team"), [("a".to_owned(), 2), ("b".to_owned(), 3)]);
        let mut ending = object("team", "a", 2);
        ending.meta_mut().deletion_timestamp =
            Some(serde_json::from_value(json!("2030-01-01T00:00:00Z")).expect("a time"));
        writer.take(Event::Apply(ending));
        writer.take(Event::Delete(object("team", "b", 3)));
        assert_eq!((known.in_namespace("team"), known.count()), (None, 0));
    }
}
