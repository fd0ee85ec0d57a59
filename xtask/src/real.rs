//! Tests on programs of others that nobody can install for them: a real Qdrant server, a real S3 server. They fail without, so what was not
//! run does not look as if it had passed; a run that is given none of these programs leaves them out, and counts them as skipped.

use anyhow::anyhow;

/// Names the program of a Qdrant server.
pub const QDRANT: &str = "CONTEXT_MANAGER_TEST_QDRANT_PROGRAM";
/// Names the program of an S3 server.
const S3: &str = "CONTEXT_MANAGER_TEST_S3_PROGRAM";

/// What the tests need, and the tests, by their suites.
const NEEDS: [(&[&str], &str, &[&str]); 4] = [
    (&[QDRANT], "store_faults", &["a_node_of_a_cluster_that_goes"]),
    (&[QDRANT], "managed_nodes", &["real_nodes_are_restarted_and_come_and_go_without_losing_anything"]),
    (
        &[QDRANT],
        "snapshots_restored",
        &[
            "what_was_lost_with_all_nodes_and_volumes_comes_back_from_a_volume_of_snapshots",
            "a_snapshot_is_restored_beside_the_resource_that_took_it",
        ],
    ),
    (
        &[QDRANT, S3],
        "snapshots_restored",
        &[
            "what_was_lost_with_all_nodes_and_volumes_comes_back_from_a_bucket",
            "a_bucket_is_trusted_by_the_ca_of_the_resource_alone",
            "contexts_of_a_namespace_become_those_of_the_one_that_they_are_restored_into",
        ],
    ),
];

/// The tests whose programs are not named, and why.
pub fn left_out(is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, anyhow::Error)> {
    let lacking = NEEDS.iter().filter_map(|(needs, _, tests)| Some((needs.iter().find(|name| !is_set(name))?, *tests)));
    lacking.flat_map(|(name, tests)| tests.iter().map(move |test| (*test, anyhow!("{name} is not set")))).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::paths;

    #[test]
    fn a_test_is_left_out_for_the_first_program_that_it_lacks() {
        let left_out = |set: &[&str]| left_out(|name| set.contains(&name)).len();
        assert_eq!((left_out(&[]), left_out(&[QDRANT]), left_out(&[QDRANT, S3])), (7, 3, 0));
    }

    /// libtest leaves out whatever contains the name.
    #[test]
    fn each_name_is_that_of_one_test_of_its_suite_alone() {
        let mut sources = Vec::new();
        rust_files(&paths::repository().join("tests/tests"), &mut sources);
        for (_, suite, tests) in NEEDS {
            for test in tests {
                let having: Vec<_> = sources.iter().filter(|(_, text)| text.contains(test)).collect();
                assert_eq!(having.iter().map(|(name, _)| name).collect::<Vec<_>>(), [suite], "{test}");
                let count = |what: &str| having.iter().map(|(_, text)| text.matches(what).count()).sum::<usize>();
                assert_eq!((count(test), count(&format!("async fn {test}()"))), (1, 1), "{test}");
            }
        }
    }

    fn rust_files(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                rust_files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("readable")));
            }
        }
    }
}
