//! A listening socket for both families of addresses.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// Listens; on `[::]` for both families, whatever the system's default is.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    listen_on(address, open_listener)
}

/// Where the kernel has no IPv6 `[::]` means 0.0.0.0.
fn listen_on(
    address: SocketAddr,
    open: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> io::Result<TcpListener> {
    let no_ipv6 = |error: &io::Error| {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
    };
    match open(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6(&error) => {
            tracing::info!(%error, "this machine has no IPv6: the agent listens on IPv4 alone");
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        opened => opened,
    }
}

fn open_listener(address: SocketAddr) -> io::Result<TcpListener> {
    // As std has it.
    const BACKLOG: i32 = 128;
    if address.ip() != Ipv6Addr::UNSPECIFIED {
        return TcpListener::bind(address);
    }
    let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Whatever the sysctl net.ipv6.bindv6only says.
    sockopt::set_ipv6_v6only(&socket, false)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::net::TcpStream;

    /// Even where the system's default is that a socket of IPv6 is for that alone, which the thread's own network has.
    #[test]
    fn a_client_of_ipv4_reaches_who_listens_on_all_of_ipv6() {
        let reached = std::thread::spawn(|| {
            // SAFETY: of this thread alone, which ends with the test; files are not unshared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("root");
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.expect("ip runs").success());
            let default = std::path::Path::new("/proc/sys/net/ipv6/bindv6only");
            if default.exists() {
                std::fs::write(default, "1").unwrap();
            }
            let listener = listen_tcp("[::]:0".parse().unwrap()).unwrap();
            let here = (Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
            TcpStream::connect(here).map(drop)
        });
        reached.join().unwrap().unwrap();
    }

    #[rstest]
    #[case("[::]:7", Errno::AFNOSUPPORT, true)]
    #[case("[::]:7", Errno::ADDRNOTAVAIL, true)]
    #[case("[::]:7", Errno::ADDRINUSE, false)]
    #[case("[::1]:7", Errno::ADDRNOTAVAIL, false)]
    fn without_ipv6_all_addresses_are_those_of_ipv4(
        #[case] address: &str,
        #[case] error: Errno,
        #[case] falls_back: bool,
    ) {
        let asked = std::cell::RefCell::new(Vec::new());
        let opened = listen_on(address.parse().unwrap(), |at| {
            asked.borrow_mut().push(at.to_string());
            if at.is_ipv6() { Err(error.into()) } else { TcpListener::bind("127.0.0.1:0") }
        });
        assert_eq!(opened.is_ok(), falls_back);
        let expected: &[&str] = if falls_back { &["[::]:7", "0.0.0.0:7"] } else { &[address] };
        assert_eq!(*asked.borrow(), expected);
    }
}
