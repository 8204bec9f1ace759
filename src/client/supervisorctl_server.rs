//! One XML-RPC call to a supervisord, or one stream of a log: over a unix socket or TCP, with Basic authentication.
//! Blocking, a connection for each.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use base64::Engine;

use super::http::{Body, Head, read_head};
use super::talk::{escape, reason};
use crate::xmlrpc::{self, Fault, Value};

pub use crate::xmlrpc::fault;

/// A reply of more than this is not ours to hold.
const MAX_REPLY: u64 = 256 << 20;

pub struct Server {
    /// As it was given, and as it is shown.
    pub url: String,
    pub login: Login,
}

#[derive(Clone, Default)]
pub struct Login {
    pub username: Option<String>,
    pub password: Option<String>,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum Trouble {
    NoFile,
    Refused,
    /// Status 401.
    Unauthorized,
    Fault(Fault),
    Other(String),
}

pub enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.read(out),
            Socket::Tcp(stream) => stream.read(out),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.write(bytes),
            Socket::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Server {
    /// Calls `supervisor.METHOD`.
    pub fn call(&self, method: &str, params: &[Value]) -> Result<Value, Trouble> {
        self.call_whole(&format!("supervisor.{method}"), params)
    }

    /// Calls `hob.METHOD`, which only a hob has: nothing from any other server.
    pub fn call_hob(&self, method: &str, params: &[Value]) -> Result<Option<Value>, Trouble> {
        match self.call_whole(&format!("hob.{method}"), params) {
            Err(Trouble::Fault(f)) if f.code == fault::UNKNOWN_METHOD => Ok(None),
            result => result.map(Some),
        }
    }

    fn call_whole(&self, method: &str, params: &[Value]) -> Result<Value, Trouble> {
        let body = xmlrpc::encode_call(method, params);
        let fields = format!(
            "Content-Type: text/xml\r\nAccept: text/xml\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        let (status, mut answer) = self.request("POST", "/RPC2", &fields, body.as_bytes())?;
        match status {
            200 => {}
            401 => return Err(Trouble::Unauthorized),
            status => return Err(Trouble::Other(format!("{} answers with HTTP status {status}", self.url))),
        }
        let mut bytes = Vec::new();
        let read = answer.by_ref().take(MAX_REPLY).read_to_end(&mut bytes);
        read.map_err(|why| self.broken(&why))?;
        let reply = xmlrpc::decode_reply(&bytes);
        reply.map_err(|why| self.unreadable(&why))?.map_err(Trouble::Fault)
    }

    /// Opens a path that streams. Gives the status and what follows. No `Connection: close` here: Python's server then
    /// holds everything back.
    pub fn stream(&self, path: &str) -> Result<(u16, Body<Socket>), Trouble> {
        self.request("GET", path, "Accept: */*\r\n", b"")
    }

    fn request(&self, method: &str, path: &str, fields: &str, body: &[u8]) -> Result<(u16, Body<Socket>), Trouble> {
        let (mut socket, host) = self.connect()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}");
        head.push_str(concat!("User-Agent: supervisorctl (hob ", env!("CARGO_PKG_VERSION"), ")\r\n"));
        if let Login { username: Some(username), password: Some(password) } = &self.login {
            let login = base64::prelude::BASE64_STANDARD.encode(format!("{username}:{password}"));
            head.push_str(&format!("Authorization: Basic {login}\r\n"));
        }
        head.push_str("\r\n");
        match socket.write_all(&[head.as_bytes(), body].concat()) {
            // One that turns us away has answered and closed before it has read all of this.
            Err(why) if why.kind() != io::ErrorKind::BrokenPipe => return Err(self.broken(&why)),
            _ => {}
        }
        let mut reader = BufReader::with_capacity(64 << 10, socket);
        let Head { status, framing, own_pid } = read_head(&mut reader).map_err(|why| self.unreadable(&why))?;
        Ok((status, Body { reader, framing, own_pid }))
    }

    /// The connection, and the name of the host as HTTP wants it.
    fn connect(&self) -> Result<(Socket, String), Trouble> {
        let connected = if let Some(path) = self.url.strip_prefix("unix://") {
            UnixStream::connect(path).map(|stream| (Socket::Unix(stream), "localhost".to_owned()))
        } else if let Some(rest) = self.url.strip_prefix("http://") {
            let (host, port) = host_and_port(rest).map_err(Trouble::Other)?;
            let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            connect_tcp(&host, port).map(|stream| (Socket::Tcp(stream), shown))
        } else {
            return Err(Trouble::Other(format!("Unknown protocol for serverurl {}", self.url)));
        };
        connected.map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => Trouble::NoFile,
            io::ErrorKind::ConnectionRefused => Trouble::Refused,
            _ => Trouble::Other(format!("cannot connect to {}: {}", self.url, reason(&why))),
        })
    }

    fn broken(&self, why: &io::Error) -> Trouble {
        Trouble::Other(format!("cannot talk to {}: {}", self.url, reason(why)))
    }

    fn unreadable(&self, why: &impl fmt::Display) -> Trouble {
        Trouble::Other(format!("cannot read the answer of {}: {why}", self.url))
    }
}

/// `/logtail/NAME/CHANNEL`, with what a path cannot hold escaped.
pub fn log_path(name: &str, channel: &str) -> String {
    format!("/logtail/{}/{channel}", escape(name).replace("%3A", ":"))
}

fn host_and_port(rest: &str) -> Result<(String, u16), String> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        None | Some("") => 80,
        Some(port) => port.parse().map_err(|_| format!("{port:?} is not a port in http://{rest}"))?,
    };
    Ok((host.to_lowercase(), port))
}

/// An address or `localhost` needs no resolver, which a static binary may not have.
fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match (host, host.parse::<IpAddr>()) {
        (_, Ok(address)) => vec![(address, port).into()],
        ("localhost" | "", _) => {
            vec![(Ipv4Addr::LOCALHOST, port).into(), (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), port).into()]
        }
        _ => (host, port).to_socket_addrs().map_err(|why| io::Error::other(why.to_string()))?.collect(),
    };
    let mut failed = io::Error::other("the host has no address");
    for (nth, address) in addresses.iter().enumerate() {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            // The first answer says most: the others are second choices.
            Err(why) if nth == 0 => failed = why,
            Err(_) => {}
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_a_port() {
        let parsed = |rest: &str| host_and_port(rest);
        assert_eq!(parsed("localhost:9001"), Ok(("localhost".into(), 9001)));
        assert_eq!(parsed("u:p@Host/RPC2"), Ok(("host".into(), 80)));
        assert_eq!(parsed("[::1]:9001/"), Ok(("::1".into(), 9001)));
        assert!(parsed("h:x").is_err() && parsed("h:99999").is_err());
    }

    #[test]
    fn a_name_in_a_path_keeps_its_colon() {
        assert_eq!(log_path("grp:a b%", "stdout"), "/logtail/grp:a%20b%25/stdout");
    }
}
