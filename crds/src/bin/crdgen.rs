//! Writes the generated definition to the file given, or to standard output.

use std::{env, fs, io::Write as _, process::ExitCode};

fn main() -> ExitCode {
    let yaml = context_manager_crds::crd_yaml();
    let written = match env::args_os().nth(1) {
        Some(path) => fs::write(path, yaml),
        None => std::io::stdout().write_all(yaml.as_bytes()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: failed to write the definition: {error}");
            ExitCode::FAILURE
        }
    }
}
