//! `cargo xtask images`: the product's images, built without a container engine: static programs on an empty base.

mod crashing;
pub mod oci;
mod qdrant;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use crate::build::Release;
use crate::cluster::{self, ClusterArgs, Target};
use crate::paths::Home;
use oci::Image;

const USER: &str = "65532:65532";
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The images, and whether they call strangers over TLS and so need the public authorities.
const PRODUCTS: [(&str, bool); 3] =
    [("context-manager-operator", true), ("context-manager-sidecar", true), ("context-manager-example-agent", false)];

/// The command line of `cargo xtask images`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Also give the images, and those that suites alone run, to every node of the dev cluster, which is started when it is not up
    #[arg(long)]
    load: bool,
}

/// Runs `cargo xtask images`.
pub fn run(args: &Args) -> Result<ExitCode> {
    // A run of the tests or the demo uses the programs and archives that would be written here.
    let _lock = Home::find()?.lock("installation")?;
    // Found out before the programs are compiled, which takes minutes.
    let cluster = args.load.then(|| cluster::ensure(&args.cluster)).transpose()?;
    let mut archives = build(&args.cluster)?;
    // A release pushes all that is printed here, so what is no product is built only for the dev cluster.
    if args.load {
        archives.extend(of_suites(&args.cluster)?);
    }
    for archive in &archives {
        println!("{}", archive.display());
    }
    if let Some(cluster) = cluster {
        cluster::load_images(&cluster, &archives)?;
    } else if args.cluster.cluster == Target::Current {
        eprintln!(
            "load them by `kind load image-archive FILE` or `k3d image import FILE`, or push them to your registry"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes archives of what the suites alone run, after [`build`]: a sidecar that crashes, and a Qdrant, if a program of one is given.
pub fn of_suites(args: &ClusterArgs) -> Result<Vec<PathBuf>> {
    let release = Release::new(&Home::find()?)?;
    let mut archives = vec![crashing::build(args, &release)?];
    archives.extend(qdrant::build(args, release.architecture()?)?);
    Ok(archives)
}

/// Builds the programs and writes an archive for each image; returns the archives.
pub fn build(args: &ClusterArgs) -> Result<Vec<PathBuf>> {
    let home = Home::find()?;
    let release = Release::new(&home)?;
    release.binaries()?;
    std::fs::create_dir_all(home.images())?;
    PRODUCTS
        .iter()
        .map(|(name, calls_out)| {
            let program = format!("/{name}");
            let mut image = Image::new(&args.image(name), release.architecture()?, USER)
                .file(&program, &release.binary(name))?
                .entrypoint(&program);
            if *calls_out && Path::new(CERTIFICATES).is_file() {
                image = image.data(CERTIFICATES, Path::new(CERTIFICATES))?;
            }
            let archive = home.images().join(format!("{name}.tar"));
            let identity = image.write(&archive)?;
            eprintln!("{} is {}", identity.reference, identity.digest);
            Ok(archive)
        })
        .collect()
}
