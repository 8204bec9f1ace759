//! How fast somebody may guess a password: after a wrong login the next one from the same address is looked at only
//! when its wait is over, and each further failure doubles that wait.
//!
//! Nobody is blocked by it but who guesses: other addresses have accounts of their own, and a request without a login is
//! answered at once. All of it is bounded, in time, in accounts and in what is held back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::http::Request;
use super::waiters::Client;
use crate::supervisor::event::Time;

#[derive(Default)]
pub struct Throttle {
    peers: HashMap<IpAddr, Account>,
    held: Vec<Held>,
}

struct Account {
    failures: u32,
    /// When the next login from there is looked at.
    open_at: Time,
}

/// A client that waits.
struct Held {
    client: Client,
    peer: IpAddr,
    at: Time,
    /// To be looked at then; nothing if it has failed already and is only to be told so.
    request: Option<Request>,
}

/// What happens to a request with a login.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    Later,
    /// So many from there wait already.
    Never,
}

impl Throttle {
    /// Whether a login from there is looked at now; the request is kept if that is later.
    pub fn turn(&mut self, peer: IpAddr, client: Client, request: &Request, now: Time) -> Turn {
        let peer = network(peer);
        let Some(at) = self.peers.get(&peer).map(|account| account.open_at).filter(|at| *at > now) else {
            return Turn::Now;
        };
        if self.held.iter().filter(|held| held.peer == peer).count() >= HELD_OF_ONE || self.held.len() >= HELD_MAX {
            return Turn::Never;
        }
        self.held.push(Held { client, peer, at, request: Some(request.clone()) });
        Turn::Later
    }

    /// A wrong login. The answer to it is due when the wait is over, too.
    pub fn failed(&mut self, peer: IpAddr, client: Client, now: Time) {
        let peer = network(peer);
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            // Those who have long been quiet go first.
            if let Some(oldest) = self.peers.iter().min_by_key(|(_, account)| account.open_at).map(|(peer, _)| *peer) {
                self.peers.remove(&oldest);
            }
        }
        let account = self.peers.entry(peer).or_insert(Account { failures: 0, open_at: now });
        if now.since(account.open_at) > FORGOTTEN_AFTER {
            account.failures = 0;
        }
        let delay = (FIRST * 2u32.saturating_pow(account.failures.min(10))).min(LONGEST);
        account.failures = account.failures.saturating_add(1);
        account.open_at = now + delay;
        self.held.push(Held { client, peer, at: now + delay, request: None });
    }

    /// A right login clears the account.
    pub fn passed(&mut self, peer: IpAddr) {
        self.peers.remove(&network(peer));
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.held.iter().map(|held| held.at).min()
    }

    /// Those whose wait is over, in the order in which they came.
    pub fn due(&mut self, now: Time) -> Vec<(Client, Option<Request>)> {
        let mut due = Vec::new();
        self.held.retain_mut(|held| {
            let is_due = held.at <= now;
            if is_due {
                due.push((held.client, held.request.take()));
            }
            !is_due
        });
        due
    }

    /// A client is gone.
    pub fn forget(&mut self, client: Client) {
        self.held.retain(|held| held.client != client);
    }

    /// The client that has waited for longest, to make room for others.
    pub fn oldest(&self) -> Option<Client> {
        self.held.first().map(|held| held.client)
    }
}

/// One customer of IPv6 has 2^64 addresses.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(4);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
const PEERS_MAX: usize = 1024;
const HELD_OF_ONE: usize = 8;
const HELD_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time(Duration::from_millis(1_000_000 + millis))
    }

    fn client(slot: usize) -> Client {
        Client { slot, serial: slot as u64 }
    }

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_a_bound_and_a_right_login_ends_it() {
        let mut throttle = Throttle::default();
        let request = Request::default();
        let mut now = at(0);
        for wait in [250, 500, 1000, 2000, 4000, 4000] {
            assert_eq!(throttle.turn(peer(1), client(1), &request, now), Turn::Now);
            throttle.failed(peer(1), client(1), now);
            assert_eq!(throttle.next_deadline(), Some(now + Duration::from_millis(wait)));
            assert_eq!(throttle.due(now + Duration::from_millis(wait - 1)).len(), 0);
            // A guess in the meantime waits, one from elsewhere does not.
            assert_eq!(throttle.turn(peer(1), client(2), &request, now), Turn::Later);
            assert_eq!(throttle.turn(peer(2), client(3), &request, now), Turn::Now);
            now = now + Duration::from_millis(wait);
            let due = throttle.due(now);
            assert_eq!(
                due.iter().map(|(c, request)| (c.slot, request.is_some())).collect::<Vec<_>>(),
                [(1, false), (2, true)]
            );
        }
        throttle.passed(peer(1));
        throttle.failed(peer(1), client(1), now);
        assert_eq!(throttle.next_deadline(), Some(now + FIRST));
    }

    #[test]
    fn what_waits_and_what_is_remembered_is_bounded() {
        let mut throttle = Throttle::default();
        let request = Request::default();
        throttle.failed(peer(1), client(0), at(0));
        for n in 1..HELD_OF_ONE {
            assert_eq!(throttle.turn(peer(1), client(n), &request, at(1)), Turn::Later);
        }
        assert_eq!(throttle.turn(peer(1), client(99), &request, at(1)), Turn::Never);
        throttle.forget(client(1));
        assert_eq!(throttle.turn(peer(1), client(99), &request, at(1)), Turn::Later);
        assert_eq!(throttle.oldest(), Some(client(0)));
        for n in 0..3000u32 {
            let address = IpAddr::from((u128::from(n) << 64).to_be_bytes());
            throttle.failed(address, client(0), at(2));
            throttle.due(at(1_000_000));
        }
        assert!(throttle.peers.len() <= PEERS_MAX && throttle.held.is_empty());
    }

    #[test]
    fn the_addresses_of_one_network_of_ipv6_have_one_account() {
        let mut throttle = Throttle::default();
        let request = Request::default();
        throttle.failed("2001:db8::1".parse().expect("an address"), client(0), at(0));
        let turn = |throttle: &mut Throttle, text: &str| {
            throttle.turn(text.parse().expect("an address"), client(1), &request, at(1))
        };
        assert_eq!(turn(&mut throttle, "2001:db8::ffff:1"), Turn::Later);
        assert_eq!(turn(&mut throttle, "2001:db8:0:1::1"), Turn::Now);
        throttle.failed("::ffff:10.0.0.9".parse().expect("an address"), client(0), at(0));
        assert_eq!(turn(&mut throttle, "10.0.0.9"), Turn::Later);
    }
}
