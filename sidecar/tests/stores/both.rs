//! One test of a function for each adapter.

/// Makes a test of each function for each adapter.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::new(super::Kind::Embedded).await).await;
            })*
        }
        mod qdrant {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::new(super::Kind::Qdrant).await).await;
            })*
        }
    };
}
