//! A host of its own on this machine: a network namespace, and a cable to it that can be pulled out.
//!
//! Nothing that is cut off this way is told so: packets vanish, as they do where a switch dies. It takes
//! Linux, root and `ip` (iproute2).

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail, ensure};

use crate::rng::Rng;

/// A host that ends, with its cable, when the handle is dropped. What runs on it has to be ended before.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// This machine's end of the cable.
    here: Ipv4Addr,
    cable: String,
    /// A shell that takes the host away when this process has died without dropping anything.
    keeper: Child,
}

impl Host {
    /// A host with a cable to this machine, plugged in.
    pub fn start() -> anyhow::Result<Self> {
        let user = Command::new("id").arg("-u").output().context("running `id -u`")?;
        ensure!(
            user.stdout.starts_with(b"0\n"),
            "a host of its own is a network namespace, which takes root: run the tests as root"
        );
        // The subnet may be somebody else's: another test's, or this machine's.
        let mut failure = None;
        for attempt in 0..5 {
            match Self::start_once(attempt) {
                Ok(host) => return Ok(host),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("the host was never made")))
    }

    fn start_once(attempt: u64) -> anyhow::Result<Self> {
        let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let mut random = Rng::new(nanos ^ u64::from(std::process::id()) << 32 ^ attempt);
        let id = random.below(1 << 14);
        // One of the /30 networks of 10.222.0.0/16.
        let [third, fourth] = ((id << 2) as u16).to_be_bytes();
        let (here, there) =
            (Ipv4Addr::new(10, 222, third, fourth + 1), Ipv4Addr::new(10, 222, third, fourth + 2));
        let (name, cable, far_end) = (format!("nozzle-{id}"), format!("nzc{id}"), format!("nzf{id}"));
        ip(&["netns", "add", &name])?;
        let keeper = start_keeper(&name)?;
        let host = Self { name, here, cable, keeper };
        ip(&["link", "add", &host.cable, "type", "veth", "peer", "name", &far_end, "netns", &host.name])?;
        ip(&["address", "add", &format!("{here}/30"), "dev", &host.cable])?;
        ip(&["link", "set", &host.cable, "up"])?;
        ip(&["-n", &host.name, "address", "add", &format!("{there}/30"), "dev", &far_end])?;
        ip(&["-n", &host.name, "link", "set", &far_end, "up"])?;
        ip(&["-n", &host.name, "link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// The address of this machine, as the host sees it.
    pub fn this_machine(&self) -> IpAddr {
        self.here.into()
    }

    /// The same command, on the host. Its process id is that of the program itself.
    pub fn run_there(&self, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => there.env(name, value),
                None => there.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            there.current_dir(folder);
        }
        there
    }

    /// Pulls the cable out: whatever is on the way is lost, and nobody is told.
    pub fn unplug(&self) -> anyhow::Result<()> {
        ip(&["link", "set", &self.cable, "down"])
    }

    /// Plugs it in again.
    pub fn plug(&self) -> anyhow::Result<()> {
        ip(&["link", "set", &self.cable, "up"])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // The keeper has taken the host away when it ends; there is nobody to tell if it failed.
        let _ = self.keeper.wait();
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let done =
        done.context("`ip` is needed for this test and is not installed: apt-get install -y iproute2")?;
    if !done.status.success() {
        bail!("`ip {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// Starts the shell that takes the host away once the pipe to it is closed.
fn start_keeper(name: &str) -> anyhow::Result<Child> {
    let script = r#"trap '' INT TERM HUP; read -r _; ip netns delete "$1""#;
    Command::new("sh")
        .args(["-c", script, "keeper", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the host's keeper")
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process::Command};

    use super::*;

    #[test]
    fn what_is_on_the_other_end_of_a_pulled_cable_is_not_reached() -> anyhow::Result<()> {
        let host = Host::start()?;
        let listener = TcpListener::bind((host.this_machine(), 0))?;
        let port = listener.local_addr()?.port();
        let reaches = |within: &str| {
            let script = format!("exec 3<>/dev/tcp/{}/{port}", host.this_machine());
            let mut command = Command::new("timeout");
            command.args([within, "bash", "-c", &script]);
            Ok::<_, anyhow::Error>(host.run_there(&command).stderr(Stdio::null()).status()?.success())
        };
        assert!(reaches("60")?);
        host.unplug()?;
        assert!(!reaches("2")?);
        host.plug()?;
        assert!(reaches("60")?);
        let name = host.name.clone();
        drop(host);
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
        Ok(())
    }
}
