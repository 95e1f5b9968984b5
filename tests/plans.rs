//! Which environments are found in which projects: each folder of tests/plans has a project's `files` and the `plan.yaml` that
//! is expected of them. With TWINSHARE_BLESS=1 what is found becomes what is expected; read the difference.
#![expect(clippy::unwrap_used, reason = "a test ends with a panic when its surroundings fail")]

use std::{collections::BTreeMap, env, fs, path::Path};

use twinshare::workspace::{self, Folder, definition};

/// Compares, or takes over.
fn check(path: &Path, found: &str) {
    if env::var_os("TWINSHARE_BLESS").is_some() {
        fs::write(path, found).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == found, "{} differs from what is found:\n{found}", path.display());
}

#[test]
fn projects_have_the_environments_that_are_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let project = entry.unwrap().path();
        let plan = workspace::plan(&Folder(project.join("files"))).unwrap();
        check(&project.join("plan.yaml"), &serde_yaml::to_string(&plan).unwrap());
        // What is derived is a description: written into workspace.yaml, it says the same.
        let environments: Vec<_> = plan.environments.iter().map(|planned| &planned.environment).collect();
        let described = tempfile::tempdir().unwrap();
        let text = serde_yaml::to_string(&BTreeMap::from([("environments", &environments)])).unwrap();
        fs::write(described.path().join("workspace.yaml"), text).unwrap();
        let again = workspace::plan(&Folder(described.path().to_path_buf())).unwrap();
        assert!(
            again.environments.iter().map(|planned| &planned.environment).eq(environments),
            "{project:?}"
        );
        count += 1;
    }
    assert!(count >= 16, "only {count} projects");
}

#[test]
fn the_schema_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/environment.schema.json");
    let schema = serde_json::to_string_pretty(&definition::schema()).unwrap();
    check(&path, &(schema + "\n"));
}
