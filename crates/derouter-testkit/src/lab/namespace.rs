//! One network namespace, and tasks and processes in it.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;
use tokio::runtime::{Builder, Handle, Runtime};

use super::system::{ip, ip_words, run};
use super::{sweep, system};

/// A network namespace; dropping it ends the processes in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Its threads are in the namespace, and so are the sockets that its tasks open.
    runtime: Option<Runtime>,
}

/// Threads for the tasks of one namespace: a backend and a few clients.
const THREADS: usize = 1;

impl Namespace {
    pub(super) fn new(name: &str) -> Self {
        ip(&[format!("netns add {name}")]);
        let file = File::open(format!("/run/netns/{name}")).expect("the namespace was just made");
        let enter = move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(file.as_fd(), network).expect("root can enter a namespace");
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .on_thread_start(enter)
            .enable_all()
            .build()
            .expect("threads can be made");
        let namespace = Self {
            name: name.to_owned(),
            runtime: Some(runtime),
        };
        namespace.ip(&["link set lo up".to_owned()]);
        namespace
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The command that runs `program` in here. Add arguments to it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// What spawns tasks whose sockets are in here.
    pub fn handle(&self) -> &Handle {
        let runtime = self.runtime.as_ref().expect("it is there until the drop");
        runtime.handle()
    }

    /// Runs a future in here: the sockets that it opens belong to this namespace.
    pub async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.handle().spawn(future).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("a task in {} was cancelled: {error}", self.name),
            },
        }
    }

    /// Lets `ip` do these steps in here.
    pub fn ip(&self, steps: &[String]) {
        let input = format!("{}\n", steps.join("\n"));
        run("ip", &["-n", &self.name, "-batch", "-"], &input);
    }

    /// Gives `nft` a rule set.
    pub fn nft(&self, rules: &str) {
        let arguments = ["netns", "exec", &self.name, "nft", "-f", "-"];
        run("ip", &arguments, rules);
    }

    /// Makes a router of it.
    pub(super) fn forward(&self) {
        let write = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
                     echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        run("ip", &["netns", "exec", &self.name, "sh", "-ec", write], "");
    }

    /// The ids of the processes in here.
    pub fn processes(&self) -> Vec<u32> {
        let words = ip_words(&format!("netns pids {}", self.name));
        let pids = words.iter().filter_map(|word| word.parse().ok());
        pids.filter(|pid| *pid != std::process::id()).collect()
    }

    /// Whether `ip` does this step in here.
    pub fn ip_works(&self, step: &str) -> bool {
        system::ip_works(&format!("-n {} {step}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        sweep::remove(&self.name);
    }
}
