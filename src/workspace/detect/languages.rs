//! Environments of programming languages, and of build tools.

use serde::Deserialize;

use super::{Found, Project, line, named, planned, words};
use crate::workspace::definition::Environment;

/// Folders that virtual environments are usually called.
const VENVS: [&str; 3] = [".venv", "venv", "env"];

/// What is known of a Python project by pyproject.toml.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PyProject {
    project: Option<PythonPackage>,
    tool: Option<toml::Table>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct PythonPackage {
    requires_python: Option<String>,
    scripts: toml::Table,
}

pub(super) fn python(project: &Project<'_>) -> Found {
    let pyproject = project.text("pyproject.toml")?;
    let requirements: Vec<&str> = project
        .top
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("requirements") && name.ends_with(".txt"))
        .collect();
    let venv = {
        let mut found = None;
        for folder in VENVS {
            if found.is_none()
                && project.has(folder)
                && project.text(&format!("{folder}/pyvenv.cfg"))?.is_some()
            {
                found = Some(folder);
            }
        }
        found
    };
    let pipfile = project.has("Pipfile");
    if pyproject.is_none() && requirements.is_empty() && venv.is_none() && !pipfile {
        return Ok(None);
    }
    let mut environment = named("python");
    let (mut from, mut because, mut ignored): (Vec<&str>, Vec<String>, Vec<String>) = Default::default();
    let mut about = PyProject::default();
    if let Some(text) = &pyproject {
        from.push("pyproject.toml");
        match toml::from_str(text) {
            Ok(read) => about = read,
            Err(error) => ignored.push(format!("pyproject.toml can't be understood: {}", error.message())),
        }
    }
    let has_tool = |name: &str| about.tool.as_ref().is_some_and(|tools| tools.contains_key(name));
    let interpreter = format!("{}/bin/python", venv.unwrap_or(".venv"));
    let pip = |what: String| line(&format!("{}/bin/pip install {what}", venv.unwrap_or(".venv")));
    if let Some(folder) = venv {
        from.push(folder);
        because.push(format!("{folder} is a virtual environment, so that nothing needs to be installed"));
    } else if project.has("uv.lock") {
        from.push("uv.lock");
        environment.setup.push(line("uv sync --frozen"));
        because.push("uv.lock says exactly what is installed".to_owned());
    } else if project.has("poetry.lock") {
        from.push("poetry.lock");
        environment.setup.push(line("POETRY_VIRTUALENVS_IN_PROJECT=1 poetry install"));
        because.push("poetry.lock says exactly what is installed".to_owned());
    } else if pipfile {
        from.push("Pipfile");
        let how = if project.has("Pipfile.lock") { "sync" } else { "install" };
        environment.setup.push(line(&format!("PIPENV_VENV_IN_PROJECT=1 pipenv {how}")));
        because.push("Pipfile says what is installed".to_owned());
    } else {
        environment.setup.push(line("python3 -m venv .venv"));
        for file in &requirements {
            if *file == "requirements.txt" || requirements.len() == 1 {
                from.push(file);
                environment.setup.push(pip(format!("-r {file}")));
            } else {
                ignored.push(format!("{file}: it may be for developers"));
            }
        }
        if about.project.is_some() || has_tool("setuptools") || project.has("setup.py") {
            environment.setup.push(pip("-e .".to_owned()));
            because.push(
                "pyproject.toml describes a package, which is installed so that edits count at once"
                    .to_owned(),
            );
        } else if !requirements.is_empty() {
            because.push("requirements.txt says what is installed".to_owned());
        }
    }
    if let Some(package) = &about.project {
        if let Some(version) = &package.requires_python {
            because.push(format!("it needs Python {version}"));
        }
        if let [script] = package.scripts.keys().map(String::as_str).collect::<Vec<_>>()[..] {
            because.push(format!("its only script is {script}"));
            environment.command = Some(words(&[&format!("{}/bin/{script}", venv.unwrap_or(".venv"))]));
        }
    }
    let entry = ["main.py", "app.py", "manage.py"].into_iter().find(|name| project.has(name));
    if let (None, Some(entry)) = (&environment.command, entry) {
        from.push(entry);
        environment.command = Some(match entry {
            "manage.py" => words(&[&interpreter, "manage.py", "runserver"]),
            entry => words(&[&interpreter, entry]),
        });
    }
    if environment.command.is_none() {
        environment.command = Some(words(&[&interpreter]));
    }
    if project.top.iter().any(|name| name.ends_with(".ipynb")) {
        environment.tools.push("jupyter".to_owned());
        because.push("there are notebooks".to_owned());
    }
    let mut found = planned(environment, &from);
    (found.because, found.ignored) = (because, ignored);
    Ok(Some(found))
}

pub(super) fn conda(project: &Project<'_>) -> Found {
    let Some(file) = project.first(&["environment.yml", "environment.yaml"]) else { return Ok(None) };
    let environment = Environment {
        setup: vec![line(&format!("conda env create --prefix .conda --file {file}"))],
        command: Some(words(&[".conda/bin/python"])),
        ..named("conda")
    };
    let mut found = planned(environment, &[file]);
    found.because.push(format!("{file} describes a conda environment, which is made in the workspace"));
    Ok(Some(found))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PackageJson {
    scripts: serde_json::Map<String, serde_json::Value>,
    engines: serde_json::Map<String, serde_json::Value>,
}

pub(super) fn node(project: &Project<'_>) -> Found {
    let Some(text) = project.text("package.json")? else { return Ok(None) };
    let (program, lock, install) =
        match project.first(&["pnpm-lock.yaml", "yarn.lock", "bun.lock", "package-lock.json"]) {
            Some(lock @ "pnpm-lock.yaml") => ("pnpm", Some(lock), "pnpm install --frozen-lockfile"),
            Some(lock @ "yarn.lock") => ("yarn", Some(lock), "yarn install --immutable"),
            Some(lock @ "bun.lock") => ("bun", Some(lock), "bun install --frozen-lockfile"),
            Some(lock) => ("npm", Some(lock), "npm ci"),
            None => ("npm", None, "npm install"),
        };
    let mut environment = named("node");
    let mut because = Vec::new();
    let mut ignored = Vec::new();
    if project.has("node_modules") {
        because.push("node_modules is there, so that nothing needs to be installed".to_owned());
    } else {
        environment.setup.push(line(install));
        because.extend(lock.map(|lock| format!("{lock} says exactly what is installed")));
    }
    let about: PackageJson = serde_json::from_str(&text).unwrap_or_else(|error| {
        ignored.push(format!("package.json can't be understood: {error}"));
        PackageJson::default()
    });
    if let Some(script) = ["start", "dev", "serve"].into_iter().find(|name| about.scripts.contains_key(*name))
    {
        environment.command = Some(words(&[program, "run", script]));
        because.push(format!("package.json has the script '{script}'"));
    }
    if let Some(version) = about.engines.get("node").and_then(serde_json::Value::as_str) {
        because.push(format!("it needs Node.js {version}"));
    }
    let from: Vec<&str> = ["package.json"].into_iter().chain(lock).collect();
    let mut found = planned(environment, &from);
    (found.because, found.ignored) = (because, ignored);
    Ok(Some(found))
}

pub(super) fn rust(project: &Project<'_>) -> Found {
    let Some(text) = project.text("Cargo.toml")? else { return Ok(None) };
    let lock = project.has("Cargo.lock");
    let locked = if lock { " --locked" } else { "" };
    let manifest: toml::Table = toml::from_str(&text).unwrap_or_default();
    let mut environment = Environment { setup: vec![line(&format!("cargo build{locked}"))], ..named("rust") };
    let mut from = vec!["Cargo.toml"];
    from.extend(lock.then_some("Cargo.lock"));
    let is_program =
        manifest.contains_key("bin") || project.names("src")?.iter().any(|name| name == "main.rs");
    let mut because = Vec::new();
    if is_program {
        environment.command = Some(line(&format!("cargo run{locked}")));
        because.push("the package is a program".to_owned());
    } else {
        environment.command = Some(line(&format!("cargo test{locked}")));
        because.push("there's no program in the top package: what can be run are its tests".to_owned());
    }
    let toolchain = project.first(&["rust-toolchain.toml", "rust-toolchain"]);
    if let Some(file) = toolchain {
        from.push(file);
        because.push(format!("{file} says which toolchain: rustup follows it"));
    }
    let mut found = planned(environment, &from);
    found.because = because;
    Ok(Some(found))
}

pub(super) fn go(project: &Project<'_>) -> Found {
    let Some(text) = project.text("go.mod")? else { return Ok(None) };
    let environment = Environment {
        setup: vec![line("go mod download")],
        command: Some(line(if project.has("main.go") { "go run ." } else { "go test ./..." })),
        ..named("go")
    };
    let mut found = planned(environment, &["go.mod"]);
    let version = text.lines().find_map(|line| line.trim().strip_prefix("go "));
    found.because.extend(version.map(|version| format!("it needs Go {}", version.trim())));
    Ok(Some(found))
}

pub(super) fn nix(project: &Project<'_>) -> Found {
    if !project.has("flake.nix") {
        return Ok(None);
    }
    let environment = Environment { command: Some(words(&["nix", "develop"])), ..named("nix") };
    let mut found = planned(environment, &["flake.nix"]);
    found.because.push("flake.nix describes a development shell".to_owned());
    Ok(Some(found))
}

pub(super) fn make(project: &Project<'_>) -> Found {
    let Some(file) = project.first(&["Makefile", "makefile", "GNUmakefile"]) else { return Ok(None) };
    let text = project.text(file)?.unwrap_or_default();
    let target =
        |name: &str| text.lines().any(|line| line.split(':').next() == Some(name) && line.contains(':'));
    let command = match ["run", "start", "serve"].into_iter().find(|name| target(name)) {
        Some(name) => words(&["make", name]),
        None => words(&["make"]),
    };
    let mut found = planned(Environment { command: Some(command), ..named("make") }, &[file]);
    found.because.push(format!("nothing but {file} says how something is run"));
    Ok(Some(found))
}
