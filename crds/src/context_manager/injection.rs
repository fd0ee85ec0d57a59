//! `spec.injection`: which pods and containers get access.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which pods and containers get access.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Injection {
    /// What happens to a pod of an opted-in namespace for which no resource can be chosen. Default: Skip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_missing: Option<OnMissing>,
    /// Names of the containers that get access. Default: all but init containers.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 63)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<String>>,
}

/// What happens to a pod of an opted-in namespace for which no resource can be chosen. Default: Skip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnMissing {
    /// It is refused.
    Deny,
    /// It is admitted without a sidecar, with a warning and an event.
    #[default]
    Skip,
}
