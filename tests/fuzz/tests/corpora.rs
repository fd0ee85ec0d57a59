//! Every stored input of every target: seeds, and what was found and repaired.

use std::{fs, path::Path};

use context_manager_test_fuzz::TARGETS;

#[test]
fn stored_inputs_of_every_target_do_no_harm() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in TARGETS {
        let folder = root.join(name);
        let inputs: Vec<_> = fs::read_dir(&folder).expect("a folder of inputs").collect();
        assert!(inputs.len() >= 3, "{} has too few inputs", folder.display());
        for input in inputs {
            let path = input.expect("an entry").path();
            let data = fs::read(&path).expect("a file");
            let outcome = std::panic::catch_unwind(|| target(&data));
            assert!(outcome.is_ok(), "{} does harm", path.display());
        }
    }
    let folders: Vec<_> = fs::read_dir(&root).expect("the folder").collect();
    assert_eq!(folders.len(), TARGETS.len(), "a folder of inputs belongs to no target");
}
