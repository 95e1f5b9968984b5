use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    path::Path,
    process::Command,
};

use twinshare::{
    api::{LaunchRequest, RawText},
    runtime::{filter_file, with_filter},
};

use super::{
    arguments::Run,
    failure::Failure,
    launch::Launch,
    session::{Session, find_host, find_workspace},
};

/// Asks the node for the sandbox.
pub(super) async fn run(session: &Session, options: Run) -> Result<Launch, Failure> {
    let cannot = |failure: Failure| failure.while_doing(format!("run in '{}'", options.workspace));
    let client = session.client().map_err(cannot)?;
    let hosts = client.hosts().await?;
    let host = find_host(&hosts, &options.workspace.host).map_err(cannot)?;
    let workspace = find_workspace(host, &options.workspace.workspace).map_err(cannot)?;
    let command = if options.command.is_empty() {
        // The sandbox has this machine's /bin.
        vec![RawText::from(if Path::new("/bin/bash").exists() { "bash" } else { "sh" })]
    } else {
        options.command.iter().cloned().map(RawText::from).collect()
    };
    let terminal = io::stdin().is_terminal();
    let filter = filter_file();
    let filter =
        filter.map_err(|error| cannot(Failure::new(format!("can't prepare the sandbox: {error}"))))?;
    let request = LaunchRequest {
        host: host.name.clone(),
        workspace: workspace.name.clone(),
        command,
        network: options.net,
        terminal,
        environment: passed(env::vars_os()),
    };
    let plan = client.launch(&request).await.map_err(|error| cannot(error.into()))?;
    let arguments: Vec<OsString> = plan.arguments.iter().map(|one| one.as_os_str().to_owned()).collect();
    let mut sandbox = Command::new(plan.program.as_os_str());
    sandbox
        .args(with_filter(&arguments, &filter))
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value.as_os_str())));
    let command = request.command.iter().map(|word| word.as_os_str().to_owned()).collect();
    Ok(Launch { sandbox, command, filter, terminal })
}

/// The variables that say how the user's terminal and language are: the only ones that reach the environment.
fn passed(variables: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, RawText> {
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| {
            matches!(name.as_str(), "TERM" | "COLORTERM" | "NO_COLOR" | "LANG" | "LANGUAGE" | "TZ")
                || name.starts_with("LC_")
        })
        .map(|(name, value)| (name, value.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_environment_stay_outside() {
        let variables = [("TERM", "xterm"), ("LC_ALL", "C"), ("AWS_SECRET_ACCESS_KEY", "s"), ("PATH", "/x")];
        let passed = passed(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        assert_eq!(passed.keys().collect::<Vec<_>>(), ["LC_ALL", "TERM"]);
    }
}
