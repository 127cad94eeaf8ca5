use derouter_testkit::Process;

#[tokio::test]
async fn a_process_is_heard_signalled_and_measured() {
    let script = "trap 'exit 7' INT; echo out; echo err >&2; while :; do sleep 0.05; done";
    // A shell can't trap what is ignored when it starts, as SIGINT is in what runs in the background.
    let shell = ["--default-signal=INT", "/bin/sh", "-c", script];
    let mut process = Process::run("shell", "env", &shell);
    let line = process
        .wait_line("err", |line| (line == "err").then(|| line.to_owned()))
        .await;
    assert_eq!(line, "err");
    assert!(process.memory_bytes() > 0);
    assert!(process.peak_memory_bytes() >= process.memory_bytes());
    assert!(process.open_files() >= 3);
    process.freeze();
    process.thaw();
    process.interrupt();
    let exit = process.exit().await;
    assert_eq!(exit.code, Some(7));
    assert_eq!(exit.stdout, "out");
}

#[tokio::test]
async fn a_killed_process_is_gone() {
    let process = Process::run("shell", "/bin/sh", &["-c", "sleep 60"]);
    let pid = process.pid();
    process.kill().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
