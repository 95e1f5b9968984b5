use std::fmt;

use serde::{Deserialize, Serialize};

/// Why the node didn't do what was asked: a problem document (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Document", into = "Document")]
pub struct Problem {
    status: u16,
    title: String,
    detail: String,
    remedy: Option<String>,
}

/// A problem as JSON: `error` repeats `detail`, for clients of the API's predecessor; `remedy` is ours.
#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(rename = "type", default)]
    kind: String,
    title: String,
    status: u16,
    detail: String,
    #[serde(default)]
    error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl From<Document> for Problem {
    fn from(document: Document) -> Self {
        let Document { title, status, detail, remedy, .. } = document;
        Self { status, title, detail, remedy }
    }
}

impl From<Problem> for Document {
    fn from(problem: Problem) -> Self {
        let Problem { status, title, detail, remedy } = problem;
        Self { kind: "about:blank".to_owned(), title, status, error: detail.clone(), detail, remedy }
    }
}

impl Problem {
    /// A problem of this HTTP status. `title` is the status in words, `detail` what failed and why.
    pub fn new(status: u16, title: &str, detail: impl fmt::Display) -> Self {
        Self { status, title: title.to_owned(), detail: detail.to_string(), remedy: None }
    }

    /// What was sent makes no sense (400).
    pub fn invalid(detail: impl fmt::Display) -> Self {
        Self::new(400, "Bad Request", detail)
    }

    /// The caller, or this node at a peer, may not do that (403).
    pub fn denied(detail: impl fmt::Display) -> Self {
        Self::new(403, "Forbidden", detail)
    }

    /// What was named isn't there (404).
    pub fn missing(detail: impl fmt::Display) -> Self {
        Self::new(404, "Not Found", detail)
    }

    /// It doesn't go with what is there already (409).
    pub fn conflict(detail: impl fmt::Display) -> Self {
        Self::new(409, "Conflict", detail)
    }

    /// The node itself failed: the disk, a program that is missing (500).
    pub fn failed(detail: impl fmt::Display) -> Self {
        Self::new(500, "Internal Server Error", detail)
    }

    /// A peer doesn't answer (504).
    pub fn unreachable(detail: impl fmt::Display) -> Self {
        Self::new(504, "Gateway Timeout", detail)
    }

    /// Says what to do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }

    /// Says what it's about.
    #[must_use]
    pub fn with_context(mut self, about: impl fmt::Display) -> Self {
        self.detail = format!("{about}: {}", self.detail);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What failed and why.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}
