//! New workspaces from templates: the built-in ones. Those of users are workspaces or folders themselves.

use std::io::{self, Cursor, Write};

use super::archive::{Attributes, Writer};
use crate::types::Timestamp;

/// A template that is part of the program.
pub struct BuiltIn {
    /// What it's called.
    pub name: &'static str,
    /// What it makes, for people.
    pub about: &'static str,
    /// Paths below the workspace's folder, and what is in them.
    files: &'static [(&'static str, &'static str)],
}

macro_rules! files {
    ($($path:literal = $source:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("templates/", $source)))),+]
    };
}

/// The templates that are part of the program.
pub const BUILT_IN: [BuiltIn; 5] = [
    BuiltIn {
        name: "python",
        about: "a Python program in a virtual environment, with a test",
        files: files![
            "workspace.yaml" = "python/workspace.yaml",
            ".twinshareignore" = "python/twinshareignore",
            "main.py" = "python/main.py",
            "requirements.txt" = "python/requirements.txt",
            "test_main.py" = "python/test_main.py",
        ],
    },
    BuiltIn {
        name: "node",
        about: "a web service for Node.js, with a test",
        files: files![
            "workspace.yaml" = "node/workspace.yaml",
            "package.json" = "node/package.json",
            "server.js" = "node/server.js",
            "server.test.js" = "node/server.test.js",
        ],
    },
    BuiltIn {
        name: "rust",
        about: "a Rust program, with a test",
        // By their own names they would be a package of Cargo's, and a source of this one.
        files: files![
            "workspace.yaml" = "rust/workspace.yaml",
            ".twinshareignore" = "rust/twinshareignore",
            "Cargo.toml" = "rust/Cargo.toml.template",
            "src/main.rs" = "rust/main.rs.template",
        ],
    },
    BuiltIn {
        name: "jupyter",
        about: "notebooks in JupyterLab, with NumPy, pandas and Matplotlib",
        files: files![
            "workspace.yaml" = "jupyter/workspace.yaml",
            ".twinshareignore" = "jupyter/twinshareignore",
            "first.ipynb" = "jupyter/first.ipynb",
            "requirements.txt" = "jupyter/requirements.txt",
        ],
    },
    BuiltIn {
        name: "llm-chat",
        about: "a page to chat with a language model behind OpenAI's API, by Ollama unless said otherwise",
        files: files![
            "workspace.yaml" = "llm-chat/workspace.yaml",
            ".twinshareignore" = "llm-chat/twinshareignore",
            "chat.py" = "llm-chat/chat.py",
            "test_chat.py" = "llm-chat/test_chat.py",
        ],
    },
];

/// The built-in template of this name.
pub fn built_in(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|template| template.name == name)
}

impl BuiltIn {
    /// It as an archive, whose files were changed at `now`.
    pub fn archive(&self, now: Timestamp) -> io::Result<Cursor<Vec<u8>>> {
        let mut archive = Writer::new(Vec::new());
        for (path, content) in self.files {
            let attributes = Attributes { mode: 0o644, modified: now };
            archive.file(path.as_bytes(), content.len() as u64, attributes)?;
            archive.write_all(content.as_bytes())?;
        }
        archive.finish("").map(Cursor::new)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, ops::ControlFlow, path::Path};

    use super::*;
    use crate::workspace::{
        Folder, Manifest,
        archive::{Archive, Unpack},
        plan,
    };

    fn make(template: &BuiltIn, folder: &Path, name: &str) {
        let name = name.parse().unwrap();
        let archive = template.archive(Timestamp { seconds: 1_800_000_000, nanoseconds: 0 }).unwrap();
        Archive::open(archive)
            .unwrap()
            .unpack(Unpack {
                destination: folder,
                links_outside: false,
                replaced: None,
                room: 1 << 20,
                prepare: &mut |folder| Ok(Manifest::become_new(folder, &name)?),
                progress: &mut |_| ControlFlow::Continue(()),
            })
            .unwrap();
    }

    #[test]
    fn every_template_has_environments_that_are_right() {
        for (template, expected) in BUILT_IN.iter().zip([
            &["python", "test"][..],
            &["node", "test"],
            &["rust", "test"],
            &["jupyter"],
            &["chat", "model", "test"],
        ]) {
            let around = tempfile::tempdir().unwrap();
            let folder = around.path().join("made");
            make(template, &folder, "my: \"lab\" {{name}}");
            let found = plan(&Folder(folder.clone())).unwrap().environments;
            let names: Vec<_> = found.iter().map(|planned| planned.environment.name.as_str()).collect();
            assert_eq!(names, expected, "{}", template.name);
            for planned in &found {
                assert_eq!(planned.from, ["workspace.yaml"], "described, and not derived");
                let environment = &planned.environment;
                assert!(environment.command.is_some() && environment.description.is_some());
                // What a command names is there, or made by the set-up.
                for word in environment.command.iter().flat_map(|command| command.words()) {
                    let is_file = word.contains('.') && !word.starts_with(['.', '-']);
                    assert!(!is_file || folder.join(&word).is_file(), "{}: {word}", template.name);
                }
            }
            let manifest = Manifest::load(&folder).unwrap().unwrap();
            assert_eq!(manifest.name.as_str(), "my: \"lab\" {{name}}");
            assert!(manifest.description.unwrap().starts_with("my: \"lab\" {{name}}: "));
            assert!(manifest.created_at.is_some());
        }
    }

    #[test]
    fn only_the_manifest_is_filled_in() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("made");
        static FILES: [(&str, &str); 2] = [
            (
                "workspace.yaml",
                "name: '{{name}}'\ntags: ['{{name}}!', 5]\nimported_from: x\nid: '00112233445566778899aabbccddeeff'\n",
            ),
            ("other.yaml", "{{name}}"),
        ];
        make(&BuiltIn { name: "x", about: "", files: &FILES }, &folder, "lab");
        assert_eq!(fs::read_to_string(folder.join("other.yaml")).unwrap(), "{{name}}");
        let text = fs::read_to_string(folder.join("workspace.yaml")).unwrap();
        assert!(text.contains("name: lab\n") && text.contains("- lab!\n- 5\n"), "{text}");
        assert!(!text.contains("imported_from") && !text.contains("001122"), "{text}");
    }
}
