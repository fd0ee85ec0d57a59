//! The stable names of all reasons for a decision: metric label values, and what tests and scripts compare.

use std::fmt;

/// Why a pod gets its sidecar, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Neither the pod nor its namespace asks for a sidecar.
    NotRequested,
    /// The pod says `"false"`.
    OptedOutByPod,
    /// The namespace says `"false"`.
    OptedOutByNamespace,
    /// The namespace's label is neither `"true"` nor `"false"`.
    InvalidNamespaceValue,
    /// The pod's label or annotation is neither `"true"` nor `"false"`.
    InvalidInjectValue,
    /// A static pod's image in the API, which cannot be changed.
    MirrorPod,
    /// The namespace has no `ContextManager`.
    NoResource,
    /// The namespace has several `ContextManager`s, and none is named.
    AmbiguousResource,
    /// The named `ContextManager` does not exist.
    UnknownResource,
    /// The named `ContextManager` is one of another namespace, and is not there or does not allow the pod's.
    NotGranted,
    /// The `ContextManager` belongs to another operator, or is one of a namespace where this one does not look: the other webhook decides.
    OtherClass,
    /// An annotation has a value it cannot have.
    InvalidAnnotation,
    /// The annotation names a container that the pod does not have.
    UnknownContainer,
    /// The pod has none of the containers that the resource's `spec.injection.containers` lists.
    NoMatchingContainer,
    /// More containers than any pod has would get access.
    TooManyContainers,
    /// A port that the pod demands for its sidecar is used by a container of it, or none is free.
    PortTaken,
    /// The name of a volume of the sidecar is used by a volume of the pod.
    VolumeNameTaken,
    /// The name of the sidecar is used by a container of the pod.
    ContainerNameTaken,
    /// A Job's pod would never complete beside a sidecar of mode Classic.
    ClassicInJob,
    /// The pod runs on Windows, for which there is no sidecar.
    WindowsPod,
    /// The pod as a whole may use less memory than a sidecar needs.
    PodTooSmall,
    /// The sidecar is injected.
    Injected,
}

impl Reason {
    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRequested => "NotRequested",
            Self::OptedOutByPod => "OptedOutByPod",
            Self::OptedOutByNamespace => "OptedOutByNamespace",
            Self::InvalidNamespaceValue => "InvalidNamespaceValue",
            Self::InvalidInjectValue => "InvalidInjectValue",
            Self::MirrorPod => "MirrorPod",
            Self::NoResource => "NoResource",
            Self::AmbiguousResource => "AmbiguousResource",
            Self::UnknownResource => "UnknownResource",
            Self::NotGranted => "NotGranted",
            Self::OtherClass => "OtherClass",
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::UnknownContainer => "UnknownContainer",
            Self::NoMatchingContainer => "NoMatchingContainer",
            Self::TooManyContainers => "TooManyContainers",
            Self::PortTaken => "PortTaken",
            Self::VolumeNameTaken => "VolumeNameTaken",
            Self::ContainerNameTaken => "ContainerNameTaken",
            Self::ClassicInJob => "ClassicInJob",
            Self::WindowsPod => "WindowsPod",
            Self::PodTooSmall => "PodTooSmall",
            Self::Injected => "Injected",
        }
    }

    /// Whether a list of resources that is older than the cluster's can be the cause, so that a fresh one may help.
    #[must_use]
    pub const fn may_be_stale(self) -> bool {
        matches!(
            self,
            Self::NoResource | Self::AmbiguousResource | Self::UnknownResource | Self::NotGranted | Self::OtherClass
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
