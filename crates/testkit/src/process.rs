//! A child process that ends with its owner, however the owner ends.

use std::{
    io,
    process::{Child, Command, Stdio},
};

/// A child process that is killed when the handle is dropped (also by a failing test) and when
/// this process dies without dropping anything.
///
/// The second needs a helper, because a killed process cleans nothing up: a shell waits on a pipe
/// of which only this process holds the writing end. When the process is gone the kernel closes
/// that end, the shell's `read` returns and it kills the child.
#[derive(Debug)]
pub struct OwnedProcess {
    child: Child,
    watchdog: Child,
}

impl OwnedProcess {
    /// Starts the command.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        match spawn_watchdog(child.id()) {
            Ok(watchdog) => Ok(Self { child, watchdog }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// The child, for its pipes and its state.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the child (SIGKILL) and waits until it is gone. Again does nothing.
    pub fn kill(&mut self) {
        // The watchdog first: it must not live to kill whoever gets the child's id next.
        end(&mut self.watchdog);
        end(&mut self.child);
    }
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn_watchdog(child_id: u32) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", r#"read -r _; kill -9 "$1""#, "watchdog", &child_id.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Kills and reaps a process; one that has ended already is only reaped.
fn end(process: &mut Child) {
    // Both fail only for a process that is gone.
    let _ = process.kill();
    let _ = process.wait();
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sleeper() -> OwnedProcess {
        OwnedProcess::spawn(Command::new("sleep").arg("600")).expect("start sleep")
    }

    #[test]
    fn the_child_dies_when_its_owner_s_end_of_the_pipe_closes() {
        let mut process = sleeper();
        // What the kernel does when this process is killed.
        drop(process.watchdog.stdin.take());
        let status = process.child().wait().expect("wait for sleep");
        assert_eq!(status.signal(), Some(9));
    }

    #[test]
    fn killing_ends_the_child_and_its_watchdog() {
        let mut process = sleeper();
        assert_eq!(process.child().try_wait().expect("look at sleep"), None);
        process.kill();
        assert!(process.child().try_wait().expect("look at sleep").is_some());
        assert!(process.watchdog.try_wait().expect("look at the shell").is_some());
        process.kill();
    }
}
