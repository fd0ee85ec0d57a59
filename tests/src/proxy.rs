//! A TCP proxy on loopback that can behave like a bad network, or like a Service.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use futures::future::{Either, select};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// The pieces of one request follow one another sooner than this.
const PIECES: Duration = Duration::from_millis(50);
/// How long a client may take to close a connection that the server has ended.
const CLOSES: Duration = Duration::from_secs(10);

/// What happens to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It arrives.
    Fine,
    /// It arrives this much later, each piece in each direction.
    Slow(Duration),
    /// Requests arrive, answers are lost and the connection with them.
    LosesAnswers,
    /// Connections end, and new ones are not made.
    Cut,
    /// The client's connection ends, and what it sent last arrives when it is [let go](Proxy::let_go).
    KeepsBack,
}

/// A running proxy; it ends with the runtime or when dropped.
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    targets: watch::Sender<Vec<SocketAddr>>,
    connections: Arc<AtomicUsize>,
    let_go: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens in front of `target`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::balanced(vec![target]).await
    }

    /// Listens in front of `targets`, which get new connections in turn.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn balanced(targets: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (network, seen) = watch::channel(Network::Fine);
        let (targets, chosen) = watch::channel(targets);
        let connections = Arc::new(AtomicUsize::new(0));
        let (let_go, goes) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, chosen, (seen, goes), Arc::clone(&connections)));
        Ok(Self { address, network, targets, connections, let_go, _tasks: tasks })
    }

    /// Where new connections go from now on. Those that are there stay, as with a Service.
    pub fn set_targets(&self, targets: Vec<SocketAddr>) {
        self.targets.send_replace(targets);
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Lets everything arrive that was kept back, and what will be.
    pub fn let_go(&self) {
        self.let_go.send_replace(true);
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the network, for connections that are there as well.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn accept(
    listener: TcpListener,
    targets: watch::Receiver<Vec<SocketAddr>>,
    (network, let_go): (watch::Receiver<Network>, watch::Receiver<bool>),
    count: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let turn = count.fetch_add(1, Ordering::Relaxed);
        let target = {
            let targets = targets.borrow();
            targets.get(turn % targets.len().max(1)).copied()
        };
        // Without a target the connection is closed at once.
        if let Some(target) = target {
            connections.spawn(connection(client, target, network.clone(), let_go.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One connection. When the server ends it in order, what the client still sends arrives until the client ends it, too, as with a Service: a
/// client whose connection is closed while it sends may never read what the server said last. Ended in any other way, both sides are closed.
async fn connection(
    client: TcpStream,
    target: SocketAddr,
    mut network: watch::Receiver<Network>,
    mut let_go: watch::Receiver<bool>,
) {
    if *network.borrow() == Network::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Small pieces must not wait for one another here; the network is as slow as it is set to be.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let requests = pass(from_client, to_server, network.clone(), false);
    let answers = pass(from_server, to_client, network.clone(), true);
    let cut = async { network.wait_for(|network| *network == Network::Cut).await.map(drop) };
    let talk = async {
        match select(pin!(requests), pin!(answers)).await {
            Either::Left((End::KeptBack(kept, to_server), _)) => Some((kept, to_server)),
            // Who has sent all it had still gets what comes back.
            Either::Left((End::Finished | End::Broken, answers)) => {
                answers.await;
                None
            }
            Either::Right((End::Finished, requests)) => {
                let _ = timeout(CLOSES, requests).await;
                None
            }
            Either::Right(_) => None,
        }
    };
    let kept = tokio::select! {
        kept = talk => kept,
        _ = cut => None,
    };
    let Some((kept, mut to_server)) = kept else { return };
    // The client's end is closed by now. Nobody reads the answers, as behind a node that has forgotten the client.
    if let_go.wait_for(|goes| *goes).await.is_ok() && to_server.write_all(&kept).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// How one direction of a connection ended.
enum End {
    /// The sender had nothing more, and the receiver was told so.
    Finished,
    /// An end was closed, or something was lost.
    Broken,
    /// These bytes are kept back, and go there.
    KeptBack(Vec<u8>, OwnedWriteHalf),
}

/// Passes on what comes until the end of it.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    network: watch::Receiver<Network>,
    answers: bool,
) -> End {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) => return End::Finished,
            Ok(read) => read,
            Err(_) => return End::Broken,
        };
        let now = *network.borrow();
        match now {
            Network::LosesAnswers if answers => return End::Broken,
            Network::KeepsBack if !answers => {
                buffer.truncate(read);
                // A request comes in pieces; the client waits for the answer after the last one.
                while let Ok(Ok(1..)) = timeout(PIECES, from.read_buf(&mut buffer)).await {}
                return End::KeptBack(buffer, to);
            }
            Network::Slow(delay) => tokio::time::sleep(delay).await,
            Network::Fine | Network::LosesAnswers | Network::Cut | Network::KeepsBack => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return End::Broken;
        }
    }
}
