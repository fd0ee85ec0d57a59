//! Asks a sidecar that runs: what a probe or a hook does that can only run a program.
//!
//! It needs neither configuration nor keys, and no runtime: a probe starts it every few seconds.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Longest time of one exchange.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest answer that is read.
const LARGEST: u64 = 16 << 20;

/// Where probes and metrics are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port of this host.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(formatter, "port {port}"),
            Self::Socket(path) => write!(formatter, "socket {}", path.display()),
        }
    }
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is not one.
    #[error("{0:?} is not a path such as /health/readiness")]
    Path(String),
    /// Nobody listens, or the connection broke.
    #[error("nobody answers at {place}; does the sidecar run?")]
    Unreachable {
        /// Where.
        place: Place,
        /// Why.
        source: io::Error,
    },
    /// What answers does not speak HTTP.
    #[error("the answer of {place} is not HTTP")]
    NotHttp {
        /// Where.
        place: Place,
    },
    /// The answer is another one than hoped for.
    #[error("{path} answers {status}: {body}")]
    Status {
        /// What was asked for.
        path: String,
        /// The status code.
        status: u16,
        /// What was said.
        body: String,
    },
}

/// The admin listener's answer to a GET of `path`. It is asked again until `wait` is over.
///
/// # Errors
/// When there is none in time, or it is not a good one.
pub fn ask(place: &Place, path: &str, wait: Duration) -> Result<String, Error> {
    let is_printable = |byte: u8| byte.is_ascii_graphic();
    if !path.starts_with('/') || !path.bytes().all(is_printable) {
        return Err(Error::Path(path.to_owned()));
    }
    let begun = Instant::now();
    loop {
        match once(place, path) {
            Err(_) if begun.elapsed() < wait => thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}

fn once(place: &Place, path: &str) -> Result<String, Error> {
    let answer = match place {
        Place::Port(port) => over_port(*port, path),
        Place::Socket(socket) => UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(EXCHANGE))?;
            stream.set_write_timeout(Some(EXCHANGE))?;
            exchange(stream, path)
        }),
    };
    let answer = answer.map_err(|source| Error::Unreachable { place: place.clone(), source })?;
    let (status, body) = parse(&answer).ok_or_else(|| Error::NotHttp { place: place.clone() })?;
    let body = body.to_owned();
    if (200..300).contains(&status) { Ok(body) } else { Err(Error::Status { path: path.to_owned(), status, body }) }
}

fn over_port(port: u16, path: &str) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), EXCHANGE)?;
    stream.set_read_timeout(Some(EXCHANGE))?;
    stream.set_write_timeout(Some(EXCHANGE))?;
    exchange(stream, path)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    // In the first version an answer ends with its connection, and is in one piece.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Status code and body.
fn parse(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut first = head.lines().next()?.split(' ');
    first.next().filter(|version| version.starts_with("HTTP/1."))?;
    Some((first.next()?.parse().ok()?, body))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection after the other, each as told.
    fn answering(answers: &'static [&'static str]) -> Place {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut head = [0; 256];
                let _ = stream.read(&mut head).expect("a request");
                stream.write_all(answer.as_bytes()).expect("a connection");
            }
        });
        Place::Port(port)
    }

    #[test]
    fn a_good_answer_is_its_body() {
        let port = answering(&["HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"]);
        assert_eq!(ask(&port, "/metrics", Duration::ZERO).expect("an answer"), "ok");
    }

    #[test]
    fn what_is_not_ready_is_asked_again_as_long_as_it_is_waited_for() {
        const NOT_YET: &str = "HTTP/1.0 503 Service Unavailable\r\n\r\n{\"waiting_for\":[\"engine\"]}";
        let port = answering(&[NOT_YET, "nonsense", "HTTP/1.0 200 OK\r\n\r\nready"]);
        assert_eq!(ask(&port, "/", Duration::from_mins(1)).expect("it is ready at last"), "ready");
        let port = answering(&[NOT_YET]);
        let error = ask(&port, "/", Duration::ZERO).expect_err("it is not ready");
        assert!(error.to_string().contains("503") && error.to_string().contains("engine"), "{error}");
    }

    #[test]
    fn nobody_at_all_and_a_path_that_is_none_are_told_apart() {
        let port = answering(&[]);
        let gone = ask(&port, "/", Duration::ZERO).expect_err("nobody listens");
        assert!(matches!(gone, Error::Unreachable { .. }), "{gone}");
        let odd = ask(&port, "/a b", Duration::from_mins(1)).expect_err("no path");
        assert!(matches!(odd, Error::Path(_)), "{odd}");
        let absent = ask(&Place::Socket("/absent/s".into()), "/", Duration::ZERO).expect_err("no socket");
        assert!(absent.to_string().contains("/absent/s"), "{absent}");
    }
}
