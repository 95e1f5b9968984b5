use std::fmt;

use twinshare::api::{ClientError, EndpointError, Problem};

use super::output::plain;

/// Why a verb failed, in words for the user: what failed and why, and what to do about it.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    remedies: Vec<String>,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedies: Vec::new() }
    }

    /// Says what to do about it.
    pub(super) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// Says what was to be done.
    pub(super) fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("can't {what}: {}", self.message);
        self
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            ClientError::NotRunning => failure.with_remedy("start it with 'twinshare up'"),
            ClientError::Endpoint(EndpointError::Foreign { .. }) => {
                failure.with_remedy("run this as that user, or set TWINSHARE_HOME to a folder of your own")
            }
            ClientError::Endpoint(_) => failure,
            ClientError::Unreachable { .. } => failure
                .with_remedy("see its log, mountd.log in its state folder")
                .with_remedy("restart it with 'twinshare down' and 'twinshare up'"),
            ClientError::Problem(problem) => match problem.remedy() {
                Some(remedy) => failure.with_remedy(remedy),
                None => failure,
            },
        }
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        ClientError::from(error).into()
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        ClientError::from(problem).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Messages have lines of their own in places (a log's tail); what peers said in them must not move the cursor.
        for (index, line) in self.message.lines().enumerate() {
            writeln!(f, "{}{}", if index == 0 { "twinshare: " } else { "" }, plain(line))?;
        }
        for remedy in &self.remedies {
            writeln!(f, "  {}", plain(remedy))?;
        }
        Ok(())
    }
}
