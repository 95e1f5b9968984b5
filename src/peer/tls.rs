use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::PublicKeyData;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::{Identity, Signature, verify};
use crate::types::NodeId;

/// The extension that carries the node's statement: an arc of our own below 2.25, where arcs are free to be made up.
const STATEMENT_OID: [u64; 3] = [2, 25, 742_616_920_347_188_209];

/// What the node's signature in a certificate is over: these bytes, then the certificate's SubjectPublicKeyInfo.
const STATEMENT_DOMAIN: &[u8] = b"twinshare certificate v1\0";

/// The extension's content: a DER octet string (tag 4) of 96 bytes, which are the node's id and its signature.
const STATEMENT_HEADER: [u8; 2] = [0x04, 96];

/// The certificate's name. Servers name it as the one issuer they accept, so that a browser doesn't ask its user
/// for a certificate of some other kind.
const COMMON_NAME: &str = "twinshare";

/// Why a node can't make its certificate or its TLS settings.
#[derive(Debug, thiserror::Error)]
#[error("can't set up TLS: {0}")]
pub struct CredentialsError(String);

impl CredentialsError {
    pub(super) fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Whom a connection is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This node and no other.
    Node(NodeId),
    /// Whoever is there: a peer that was added by its address and is met for the first time.
    Any,
}

/// Why a certificate isn't a node's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum StatementError {
    #[error("its certificate can't be read")]
    Malformed,
    #[error("its certificate names no twinshare node")]
    Missing,
    #[error("its certificate's statement is not signed by the node that it names")]
    Forged,
}

/// What this node shows to others: a P-256 certificate, since browsers refuse Ed25519 ones, with its identity's
/// statement in it.
///
/// Certificate and key are made anew at every start and are never written to the disk.
#[derive(Clone)]
pub struct Credentials {
    node: NodeId,
    key: Arc<SingleCertAndKey>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.node.short())
    }
}

impl Credentials {
    /// Makes a key and a certificate for `identity`.
    pub fn new(identity: &Identity) -> Result<Self, CredentialsError> {
        Self::make(identity.id(), |key| Some(statement(identity, key)))
    }

    /// A certificate whose statement `state` makes from its SubjectPublicKeyInfo.
    pub(super) fn make(
        node: NodeId,
        state: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<Self, CredentialsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CredentialsError::new)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, COMMON_NAME);
        // For browsers and curl. Nodes don't look at the dates: clocks on a LAN are wrong too often, and the key
        // lives no longer than the process.
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let day = |date: jiff::civil::Date| {
            rcgen::date_time_ymd(
                i32::from(date.year()),
                date.month().unsigned_abs(),
                date.day().unsigned_abs(),
            )
        };
        params.not_before = day(today.yesterday().map_err(CredentialsError::new)?);
        params.not_after =
            day(today.checked_add(jiff::Span::new().days(365)).map_err(CredentialsError::new)?);
        if let Some(statement) = state(&key.subject_public_key_info()) {
            params
                .custom_extensions
                .push(rcgen::CustomExtension::from_oid_content(&STATEMENT_OID, statement));
        }
        let certificate = params.self_signed(&key).map_err(CredentialsError::new)?;
        let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], secret, &provider)
            .map_err(CredentialsError::new)?;
        Ok(Self { node, key: Arc::new(key.into()), provider })
    }

    /// This certificate with another's key, as a thief of certificates would have them.
    #[cfg(test)]
    pub(super) fn with_key_of(&self, other: &Self) -> Self {
        use rustls::client::ResolvesClientCert;
        let pair = |credentials: &Self| {
            credentials.key.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap()
        };
        let key = CertifiedKey::new(pair(self).cert.clone(), pair(other).key.clone());
        Self { key: Arc::new(key.into()), ..self.clone() }
    }

    /// The node whose credentials these are.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The server's side: clients may show a certificate, and if they do it is a node's.
    pub(super) fn server_config(&self) -> Result<ServerConfig, CredentialsError> {
        let verifier = ClientVerifier { provider: self.provider.clone(), hints: vec![issuer_name()] };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(CredentialsError::new)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.key.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every connection proves its keys anew: nothing that was once right is resumed.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// The client's side of connections that `verifier` watches over.
    pub(super) fn client_config(
        &self,
        verifier: Arc<ServerVerifier>,
    ) -> Result<ClientConfig, CredentialsError> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(CredentialsError::new)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.key.clone());
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// `CN=twinshare` in DER, as it stands in our certificates as their issuer.
fn issuer_name() -> DistinguishedName {
    // SEQUENCE { SET { SEQUENCE { OID 2.5.4.3, UTF8String } } }
    let text = COMMON_NAME.as_bytes();
    let length = text.len() as u8;
    let mut der = vec![0x30, length + 11, 0x31, length + 9, 0x30, length + 7, 0x06, 3, 0x55, 0x04, 0x03];
    der.extend([0x0c, length]);
    der.extend(text);
    DistinguishedName::from(der)
}

/// The extension's content for a certificate with this SubjectPublicKeyInfo.
pub(super) fn statement(identity: &Identity, public_key: &[u8]) -> Vec<u8> {
    let signature = identity.sign(&[STATEMENT_DOMAIN, public_key].concat());
    [&STATEMENT_HEADER[..], identity.id().as_bytes(), signature.as_bytes()].concat()
}

/// Whose certificate this is. That the other side has the certificate's key, the TLS handshake shows.
pub(super) fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, StatementError> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| StatementError::Malformed)?;
    if !rest.is_empty() {
        return Err(StatementError::Malformed);
    }
    let oid = x509_parser::oid_registry::Oid::from(&STATEMENT_OID).map_err(|_| StatementError::Malformed)?;
    let extension = parsed
        .get_extension_unique(&oid)
        .map_err(|_| StatementError::Malformed)?
        .ok_or(StatementError::Missing)?;
    let content = extension.value.strip_prefix(&STATEMENT_HEADER).ok_or(StatementError::Malformed)?;
    let (node, signature) = content.split_first_chunk::<32>().ok_or(StatementError::Malformed)?;
    let signature: [u8; 64] = signature.try_into().map_err(|_| StatementError::Malformed)?;
    // The key is taken by the very parser whose result the handshake's signature is checked with: where two parsers
    // could be made to disagree, a statement would vouch for another key than the one that signs.
    let public_key = ParsedCertificate::try_from(certificate)
        .map_err(|_| StatementError::Malformed)?
        .subject_public_key_info();
    let node = NodeId::from_bytes(*node);
    verify(node, &[STATEMENT_DOMAIN, &public_key].concat(), &Signature::from_bytes(signature))
        .map_err(|_| StatementError::Forged)?;
    Ok(node)
}

fn refused(error: StatementError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Checks that the other side has the certificate's key: it signed what was said in the handshake.
fn possession(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls13_signature(message, certificate, signature, &provider.signature_verification_algorithms)
}

/// Nodes speak TLS 1.3 alone; earlier versions are not even offered.
fn no_tls12() -> rustls::Error {
    rustls::Error::General("nodes speak TLS 1.3 only".into())
}

/// Accepts clients without a certificate (browsers, curl) and those with a node's.
#[derive(Debug)]
struct ClientVerifier {
    provider: Arc<CryptoProvider>,
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        node_of(end_entity).map(|_| ClientCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        possession(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a [`ServerVerifier`] has learned of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// This node answered; whether it was the expected one is another question.
    Node(NodeId),
    /// Not a node.
    NotANode(StatementError),
}

/// Watches over the connections to one peer: they all lead to the node that is expected, or else to the one that
/// proved itself on the first.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    provider: Arc<CryptoProvider>,
    state: Mutex<(Expected, Option<Found>)>,
}

impl ServerVerifier {
    pub(super) fn new(credentials: &Credentials, expected: Expected) -> Arc<Self> {
        Arc::new(Self { provider: credentials.provider.clone(), state: Mutex::new((expected, None)) })
    }

    /// What the last handshake showed. Only after a request has gone through is it also proved.
    pub(super) fn found(&self) -> Option<Found> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = node_of(end_entity);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(node) => {
                state.1 = Some(Found::Node(node));
                if let Expected::Node(expected) = state.0
                    && node != expected
                {
                    return Err(CertificateError::ApplicationVerificationFailure.into());
                }
                state.0 = Expected::Node(node);
                Ok(ServerCertVerified::assertion())
            }
            Err(error) => {
                state.1 = Some(Found::NotANode(error.clone()));
                Err(refused(error))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        possession(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::client::ResolvesClientCert;

    fn certificate(credentials: &Credentials) -> CertificateDer<'static> {
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        credentials.key.resolve(&[], &schemes).unwrap().cert[0].clone()
    }

    #[test]
    fn a_certificate_names_its_node() {
        let identity = Identity::from_secret([1; 32]);
        let credentials = Credentials::new(&identity).unwrap();
        let certificate = certificate(&credentials);
        assert_eq!(node_of(&certificate), Ok(identity.id()));
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        assert_eq!(parsed.issuer().as_raw(), issuer_name().as_ref());
        let now = x509_parser::time::ASN1Time::now();
        assert!(parsed.validity().is_valid_at(now));
    }

    #[test]
    fn other_statements_are_refused() {
        let (a, b) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let make = |state: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
            node_of(&certificate(&Credentials::make(a.id(), |key| state(key)).unwrap()))
        };
        // The statement of another certificate of the same node.
        assert_eq!(make(&|_| Some(statement(&a, b"another key"))), Err(StatementError::Forged));
        // B's signature under A's name.
        assert_eq!(
            make(&|key| {
                let mut forged = statement(&b, key);
                forged[2..34].copy_from_slice(a.id().as_bytes());
                Some(forged)
            }),
            Err(StatementError::Forged)
        );
        assert_eq!(make(&|_| None), Err(StatementError::Missing));
        assert_eq!(make(&|_| Some(Vec::new())), Err(StatementError::Malformed));
        assert_eq!(
            make(&|key| {
                let mut long = statement(&a, key);
                long.push(0);
                Some(long)
            }),
            Err(StatementError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn hostile_certificates_are_errors(at in 0..400usize, byte: u8, cut in 0..400usize) {
            let credentials = Credentials::new(&Identity::from_secret([1; 32])).unwrap();
            let good = certificate(&credentials).to_vec();
            let mut bad = good.clone();
            let at = at.min(bad.len() - 1);
            bad[at] = byte;
            // A changed byte outside key and statement is for the handshake's signature to notice, or harmless.
            let _ = node_of(&CertificateDer::from(bad));
            let short = good[..cut.min(good.len() - 1)].to_vec();
            prop_assert!(node_of(&CertificateDer::from(short)).is_err());
        }

        #[test]
        fn random_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(node_of(&CertificateDer::from(bytes)).is_err());
        }
    }
}
