//! What the agent gets to remember, and what it is asked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Args;
use crate::paths::{self, Home};

/// A `ConfigMap` holds at most a mebibyte, its names included.
const MOST_BYTES: u64 = 1_000_000;

/// Words that an answer about the project's README must contain, in the order of `examples/questions.txt`.
const EXPECTED: [&str; 3] = ["RFC 9421", "SIGKILL", "token budget"];

/// The document and the questions.
pub struct Input {
    /// The document's file.
    pub document: PathBuf,
    /// The file with the questions.
    pub questions_file: PathBuf,
    /// The questions in it.
    pub questions: Vec<String>,
    /// A word for each question that one of its contexts must contain; empty for somebody else's document or questions.
    pub expected: &'static [&'static str],
    /// An embeddings API instead of the built-in embedder.
    pub embedding: Option<Embedding>,
}

/// An OpenAI-compatible embeddings API.
pub struct Embedding {
    /// Its full URL.
    pub url: String,
    /// The model.
    pub model: String,
    /// Length of a vector.
    pub dimensions: u16,
    /// The API key.
    pub key: Option<String>,
}

impl Input {
    /// Reads and checks everything before anything is started.
    pub fn read(home: &Home, args: &Args) -> Result<Self> {
        let own_document = args.document.is_none();
        let document = match &args.document {
            Some(file) => std::path::absolute(file)?,
            None => paths::repository().join("README.md"),
        };
        check_path(&document)?;
        check_document(&document)?;
        let own_questions = args.question.is_empty();
        let questions_file = if own_questions {
            paths::repository().join("examples/questions.txt")
        } else {
            write_questions(home, &args.question)?
        };
        check_path(&questions_file)?;
        let text = fs::read_to_string(&questions_file)
            .with_context(|| format!("failed to read {}", questions_file.display()))?;
        let questions: Vec<_> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if questions.is_empty() {
            bail!("a question is empty; write one");
        }
        let expected = if own_document && own_questions { &EXPECTED[..] } else { &[] };
        Ok(Self { document, questions_file, questions, expected, embedding: embedding(args) })
    }
}

fn embedding(args: &Args) -> Option<Embedding> {
    let (url, model) = (args.embedding_url.clone()?, args.embedding_model.clone()?);
    let key = std::env::var("EMBEDDING_API_KEY").ok().filter(|key| !key.is_empty());
    Some(Embedding { url, model, dimensions: args.embedding_dimensions, key })
}

/// kubectl splits `--from-file=KEY=FILE` at every sign.
fn check_path(file: &Path) -> Result<()> {
    let typed = file.strip_prefix(paths::repository()).unwrap_or(file);
    if typed.to_string_lossy().contains('=') {
        bail!("kubectl does not take a file whose path has a \"=\": {}; copy it to another path", file.display());
    }
    Ok(())
}

fn check_document(file: &Path) -> Result<()> {
    let found = fs::metadata(file).with_context(|| format!("there is no document {}", file.display()))?;
    if !found.is_file() {
        // A pipe can be read once, and kubectl reads the document again.
        bail!("{} is not an ordinary file; save the document in one", file.display());
    }
    let size = found.len();
    if size > MOST_BYTES {
        bail!(
            "{} has {size} bytes; the demo hands the document over in a ConfigMap, which holds {MOST_BYTES}",
            file.display()
        );
    }
    let text = fs::read_to_string(file).with_context(|| format!("{} is not UTF-8 text", file.display()))?;
    if !text.chars().any(char::is_alphanumeric) {
        bail!("{} has no words in it", file.display());
    }
    Ok(())
}

fn write_questions(home: &Home, questions: &[String]) -> Result<PathBuf> {
    let file = home.demo().join("questions.txt");
    fs::create_dir_all(home.demo())?;
    // A question is a line of the file.
    let lines: Vec<_> =
        questions.iter().map(|question| question.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    fs::write(&file, lines.join("\n") + "\n")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_questions_of_the_examples_are_as_many_as_the_expected_words_and_the_readme_has_them() {
        let questions = fs::read_to_string(paths::repository().join("examples/questions.txt")).expect("there");
        assert_eq!(questions.lines().count(), EXPECTED.len());
        let readme = fs::read_to_string(paths::repository().join("README.md")).expect("there");
        for word in EXPECTED {
            assert!(readme.contains(word), "the README says nothing about {word:?}");
        }
    }

    #[test]
    fn a_document_that_does_not_fit_or_says_nothing_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refused = |content: &[u8]| {
            let file = folder.path().join("document");
            fs::write(&file, content).expect("written");
            format!("{:#}", check_document(&file).expect_err("refused"))
        };
        assert!(refused(&vec![b'a'; 1_000_001]).contains("1000001 bytes"));
        assert!(refused(b"--- \n").contains("no words"));
        assert!(refused(b"\xff\xfe").contains("not UTF-8"));
        assert!(check_document(&folder.path().join("absent")).is_err());
        let folder = check_document(folder.path()).expect_err("a folder").to_string();
        assert!(folder.contains("not an ordinary file"), "{folder}");
        assert!(check_path(Path::new("/tmp/a=b/document.md")).is_err());
        assert!(check_path(&paths::repository().join("README.md")).is_ok());
    }
}
