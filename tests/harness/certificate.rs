use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate for `localhost` and 127.0.0.1, signed by an authority of its own, made for one test.
#[derive(Debug)]
pub struct Certificate {
    /// The authority a client has to trust (PEM).
    pub authority: PathBuf,
    /// The server's certificate (PEM).
    pub certificate: PathBuf,
    /// The server's private key (PEM).
    pub key: PathBuf,
}

impl Certificate {
    /// Makes the three files in `folder`.
    ///
    /// # Panics
    /// Where `openssl` is missing or fails.
    pub fn make(folder: &Path) -> Certificate {
        let made = Certificate {
            authority: folder.join("ca.pem"),
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
        };
        let extensions = folder.join("server.ext");
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        std::fs::write(&extensions, names).expect("the folder is writable");
        let request = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        openssl(
            folder,
            &format!("{request} -x509 -keyout ca.key -out ca.pem -subj /CN=celerybox-test-ca"),
        );
        openssl(
            folder,
            &format!("{request} -keyout server.key -out server.csr -subj /CN=localhost"),
        );
        openssl(
            folder,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -out server.pem -extfile server.ext",
        );
        made
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("openssl does not start ({error}); run: make servers"));
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
