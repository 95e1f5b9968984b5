//! What runs in an environment tries to get out of it.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::bed::Bed;

/// Attempts, each a Python program that must end with an exception, or print that it was refused.
const ATTEMPTS: [(&str, &str); 19] = [
    ("read the host's home", "print(open('SECRET').read()); won()"),
    ("list the host's home", "import os\nassert 'secret' in os.listdir('HOME'); won()"),
    ("read it through the workspace", "print(open('WORKSPACE/../../secret').read()); won()"),
    ("read it through a link", "import os\nos.symlink('SECRET', 'link'); print(open('link').read()); won()"),
    ("see the host's processes", "import os\nassert os.path.exists('/proc/VICTIM'); won()"),
    ("signal a host's process", "import os\nos.kill(VICTIM, 9); won()"),
    (
        "trace a host's process",
        "import ctypes\nassert ctypes.CDLL(None).ptrace(16, VICTIM, 0, 0) == 0; won()",
    ),
    (
        "read the host's root through /proc",
        "import os\nprint(os.listdir('/proc/1/root/home')); won_if_secret()",
    ),
    ("change the kernel's settings", "open('/proc/sys/kernel/hostname', 'w').write('x'); won()"),
    ("have a core dumped by a program", "open('/proc/sys/kernel/core_pattern', 'w').write('|/x'); won()"),
    ("write to the system", "open('/usr/bin/planted', 'w').write('x'); won()"),
    ("write to the settings", "open('/etc/planted', 'w').write('x'); won()"),
    (
        "mount something",
        "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0; won()",
    ),
    ("make a namespace of users", "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0; won()"),
    (
        "make a device",
        "import os\nos.mknod('/tmp/sda', 0o60600, os.makedev(8, 0)); open('/tmp/sda', 'rb').read(1); won()",
    ),
    ("use the kernel's keys", "import ctypes\nassert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0; won()"),
    (
        "use io_uring",
        "import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(200)) >= 0; won()",
    ),
    ("reach the control API", "import socket\nsocket.create_connection(('127.0.0.1', CONTROL), 2); won()"),
    ("reach the owner", "import socket\nsocket.create_connection(('OWNER', 37778), 2); won()"),
];

#[test]
fn nothing_gets_out_of_a_sandbox() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.workspace("lab");
    fs::write(folder.join("workspace.yaml"), "environments:\n- {name: a, ports: [8200]}\n").unwrap();
    bed.share(&folder);
    let guest = bed.guest();
    let home = bed.folder().join("guest-home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("secret"), "the host's secret").unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    guest.ask(&["start", "owner/lab", "--yes", "--wait"]);
    let control = guest.json(&["status", "--json"])["control_port"].to_string();
    let values = [
        ("SECRET", home.join("secret").to_str().unwrap().to_owned()),
        ("HOME", home.to_str().unwrap().to_owned()),
        ("WORKSPACE", folder.to_str().unwrap().to_owned()),
        ("VICTIM", victim.id().to_string()),
        ("CONTROL", control),
        ("OWNER", bed.owner().address().to_string()),
    ];
    for (what, program) in ATTEMPTS {
        let mut program = program.to_owned();
        for (name, value) in &values {
            program = program.replace(name, value);
        }
        let program = format!(
            "def won():\n  print('OUT')\ndef won_if_secret():\n  import os\n  won() if os.path.exists('/proc/1/root{}') else None\n\
             try:\n  exec({program:?})\nexcept BaseException as e:\n  print('refused', repr(e))\n",
            values[0].1
        );
        let tried = guest.cli(&["exec", "owner/lab", "--", "python3", "-c", &program]);
        let said = String::from_utf8_lossy(&tried.stdout).into_owned();
        assert!(!said.contains("OUT"), "{what}: {said}");
        assert!(said.contains("refused") || what.contains("/proc"), "{what}: {tried:?}");
    }
    assert!(victim.try_wait().unwrap().is_none(), "the host's process lives");
    victim.kill().unwrap();
    victim.wait().unwrap();
    // A port that isn't declared isn't reached from the host, though something listens on it.
    let serve = |port: &str| {
        let look = format!("import socket\nsocket.create_connection(('127.0.0.1', {port}))");
        let script = format!(
            "setsid python3 -m http.server {port} > /dev/null 2>&1 &
             until python3 -c \"{look}\" 2> /dev/null; do :; done"
        );
        guest.ask(&["exec", "owner/lab", "--", "sh", "-c", &script]);
        let mut curl = crate::node::within(10, "nsenter");
        curl.arg(format!("--net=/run/netns/{}", guest.namespace()));
        curl.args(["--", "curl", "-s"]);
        curl.arg(format!("http://127.0.0.1:{port}/")).output().unwrap().status.success()
    };
    assert!(serve("8200"));
    assert!(!serve("8201"));
}
