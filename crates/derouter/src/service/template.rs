//! The files of service managers. systemd's are `packaging/derouter.service` with this machine's paths, so
//! that there is one truth. Pure.

use std::path::Path;

/// The unit of the whole machine.
const SYSTEM: &str = include_str!("../../../../packaging/derouter.service");

/// What a service runs.
#[derive(Debug)]
pub(super) struct Unit<'a> {
    /// This program.
    pub(super) program: &'a Path,
    /// The configuration, by its whole path.
    pub(super) config: &'a Path,
}

/// Settings of the machine's unit that a user's manager does not take: it can't change users, and its
/// sandbox can't be built without privileges everywhere. The home directory is the user's own.
const NOT_FOR_USERS: [&str; 24] = [
    "LoadCredential",
    "Environment=HOME",
    "DynamicUser",
    "StateDirectory",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "Protect",
    "PrivateTmp",
    "PrivateDevices",
    "RestrictNamespaces",
    "RestrictSUIDSGID",
    "RestrictRealtime",
    "RestrictAddressFamilies",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "RemoveIPC",
    "SystemCall",
    "Wants=network-online",
    "After=network-online",
    "# Its configuration is",
    "# A node that buys",
    "#   systemctl",
    "# The configuration needs",
    "NoNewPrivileges",
];

/// The unit of the whole machine: systemd hands the configuration over to a user of its own.
pub(super) fn systemd_system(unit: &Unit<'_>) -> Result<String, String> {
    let (program, config) = (word(unit.program)?, plain(unit.config)?);
    let text = SYSTEM
        .lines()
        .filter(|line| {
            !line.starts_with("# A node that buys") && !line.starts_with("#   systemctl")
        })
        .map(|line| {
            line.replace("/etc/derouter/config.json", &config)
                .replace("/usr/local/bin/derouter", &program)
        });
    Ok(headed(text.collect()))
}

/// The unit of a user.
pub(super) fn systemd_user(unit: &Unit<'_>) -> Result<String, String> {
    let (program, config) = (word(unit.program)?, word(unit.config)?);
    let kept = SYSTEM
        .lines()
        .filter(|line| !NOT_FOR_USERS.iter().any(|start| line.starts_with(start)));
    let text = kept.map(|line| match line {
        line if line.starts_with("ExecStart=") => {
            format!("ExecStart={program} run -c {config} --log-format json")
        }
        "WantedBy=multi-user.target" => "WantedBy=default.target".to_owned(),
        line => line.to_owned(),
    });
    Ok(headed(text.collect()))
}

fn headed(lines: Vec<String>) -> String {
    let mut text = String::from(
        "# Written by `derouter service install`; `derouter service uninstall` removes it.\n",
    );
    let mut blank = false;
    for line in lines {
        // Whole paragraphs may be gone.
        if line.is_empty() && blank {
            continue;
        }
        blank = line.is_empty();
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// A path that stands alone in a setting, where no quotes are understood.
fn plain(path: &Path) -> Result<String, String> {
    let text = text(path)?;
    match text.contains(|c: char| c.is_whitespace() || c == ':') {
        true => Err(format!(
            "systemd does not take {text:?}: move it to a path without spaces and colons"
        )),
        false => Ok(text.replace('%', "%%")),
    }
}

/// A path as a word of a command line of systemd.
fn word(path: &Path) -> Result<String, String> {
    let text = text(path)?.replace('%', "%%").replace('$', "$$");
    let is_plain = !text.contains(|c: char| c.is_whitespace() || "\"'\\".contains(c));
    match is_plain {
        true => Ok(text),
        false => Ok(format!(
            "\"{}\"",
            text.replace('\\', "\\\\").replace('"', "\\\"")
        )),
    }
}

fn text(path: &Path) -> Result<String, String> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(char::is_control));
    text.map(str::to_owned)
        .ok_or_else(|| format!("{} is no text that a service manager takes", path.display()))
}

/// launchd's property list. Its stop is a SIGTERM, which drains.
pub(super) fn launchd(unit: &Unit<'_>) -> Result<String, String> {
    let (program, config) = (xml(&text(unit.program)?), xml(&text(unit.config)?));
    let label = super::LABEL;
    Ok(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- Written by `derouter service install`; `derouter service uninstall` removes it. -->
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{label}</string>
  <key>ProgramArguments</key>
  <array>
    <string>{program}</string>
    <string>run</string>
    <string>-c</string>
    <string>{config}</string>
    <string>--log-to-data-dir</string>
  </array>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>10</integer>
  <key>ExitTimeOut</key>
  <integer>70</integer>
  <key>SoftResourceLimits</key>
  <dict>
    <key>NumberOfFiles</key>
    <integer>65536</integer>
  </dict>
  <key>Umask</key>
  <integer>63</integer>
</dict>
</plist>
"#
    ))
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit<'static> {
        Unit {
            program: Path::new("/home/ada/.cargo/bin/derouter"),
            config: Path::new("/home/ada/my config.json"),
        }
    }

    #[test]
    fn the_machines_unit_is_the_packaged_one_with_this_machines_paths() {
        let packaged = Unit {
            program: Path::new("/usr/local/bin/derouter"),
            config: Path::new("/etc/derouter/config.json"),
        };
        let made = systemd_system(&packaged).unwrap();
        let settings = |text: &str| -> Vec<String> {
            let lines = text
                .lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty());
            lines.map(str::to_owned).collect()
        };
        assert_eq!(settings(&made), settings(SYSTEM));
        assert!(
            systemd_system(&unit()).is_err(),
            "a credential's path has no spaces"
        );
    }

    #[test]
    fn a_users_unit_keeps_the_watchdog_and_the_drain_and_leaves_out_what_needs_root() {
        let made = systemd_user(&unit()).unwrap();
        for kept in [
            "Type=notify",
            "ExecStart=/home/ada/.cargo/bin/derouter run -c \"/home/ada/my config.json\" --log-format json",
            "WatchdogSec=60",
            "TimeoutStopSec=70",
            "Restart=on-failure",
            "LimitNOFILE=65536",
            "WantedBy=default.target",
        ] {
            assert!(made.lines().any(|line| line == kept), "{kept}\n{made}");
        }
        for gone in [
            "DynamicUser",
            "Capability",
            "multi-user",
            "CREDENTIALS",
            "%S",
        ] {
            assert!(!made.contains(gone), "{gone}\n{made}");
        }
    }

    #[test]
    fn paths_can_not_break_out_of_their_place() {
        let unit = Unit {
            program: Path::new("/a&b/<derouter>"),
            config: Path::new("/a \"%n\" $HOME\\.json"),
        };
        let plist = launchd(&unit).unwrap();
        assert!(
            plist.contains("<string>/a&amp;b/&lt;derouter&gt;</string>"),
            "{plist}"
        );
        let made = systemd_user(&unit).unwrap();
        assert!(made.contains(r#"-c "/a \"%%n\" $$HOME\\.json""#), "{made}");
        let broken = Unit {
            config: Path::new("/a\nExecStartPre=/bin/sh"),
            ..unit
        };
        assert!(systemd_user(&broken).is_err() && launchd(&broken).is_err());
    }
}
