//! Signed messages: Celery's serializer `auth` (contract section 1.7).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey};
use rsa::traits::PublicKeyParts;
use rsa::{BigUint, Pss, RsaPrivateKey, RsaPublicKey};
use sha2::{Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::{DecodePem, Encode, Tag, Tagged};

use super::ContentError;

/// What stands between the parts of signed content.
const SEPARATOR: &[u8] = b"\x00\x01";

/// `security_digest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// The digest of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "sha256" => Some(Digest::Sha256),
            "sha384" => Some(Digest::Sha384),
            "sha512" => Some(Digest::Sha512),
            _ => None,
        }
    }

    fn of(self, payload: &[u8]) -> Vec<u8> {
        use sha2::Digest as _;
        match self {
            Digest::Sha256 => Sha256::digest(payload).to_vec(),
            Digest::Sha384 => Sha384::digest(payload).to_vec(),
            Digest::Sha512 => Sha512::digest(payload).to_vec(),
        }
    }

    /// RSASSA-PSS with the longest salt that fits a key of so many bits; `None` when none fits.
    fn padding(self, bits: usize, blinded: bool) -> Option<Pss> {
        let length = match self {
            Digest::Sha256 => 32,
            Digest::Sha384 => 48,
            Digest::Sha512 => 64,
        };
        let salt = bits.saturating_sub(1).div_ceil(8).checked_sub(length + 2)?;
        Some(match (self, blinded) {
            (Digest::Sha256, false) => Pss::new_with_salt::<Sha256>(salt),
            (Digest::Sha384, false) => Pss::new_with_salt::<Sha384>(salt),
            (Digest::Sha512, false) => Pss::new_with_salt::<Sha512>(salt),
            (Digest::Sha256, true) => Pss::new_blinded_with_salt::<Sha256>(salt),
            (Digest::Sha384, true) => Pss::new_blinded_with_salt::<Sha384>(salt),
            (Digest::Sha512, true) => Pss::new_blinded_with_salt::<Sha512>(salt),
        })
    }
}

/// A certificate, as far as it matters here.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    key: RsaPublicKey,
    not_after: Timestamp,
}

impl Known {
    fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificate =
            Certificate::from_pem(pem).map_err(|error| format!("not a certificate in PEM: {error}"))?;
        let certificate = certificate.tbs_certificate;
        let issuer: Vec<String> = certificate
            .issuer
            .0
            .iter()
            .flat_map(|names| names.0.iter())
            .map(|name| text(name.value.tag(), name.value.value()))
            .collect();
        let serial = BigUint::from_bytes_be(certificate.serial_number.as_bytes());
        let key = certificate
            .subject_public_key_info
            .to_der()
            .map_err(|error| error.to_string())
            .and_then(|der| RsaPublicKey::from_public_key_der(&der).map_err(|error| error.to_string()))
            .map_err(|error| format!("not an RSA key of at most 4096 bits: {error}"))?;
        let seconds = certificate.validity.not_after.to_unix_duration().as_secs();
        let not_after = i64::try_from(seconds)
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        Ok(Self {
            id: format!("{} {serial}", issuer.join(" ")),
            key,
            not_after: not_after.unwrap_or(Timestamp::MAX),
        })
    }
}

/// A name of a certificate's issuer.
fn text(tag: Tag, value: &[u8]) -> String {
    match tag {
        Tag::TeletexString => value.iter().copied().map(char::from).collect(),
        Tag::BmpString => {
            let units = value.chunks_exact(2).filter_map(|pair| match *pair {
                [high, low] => Some(u16::from_be_bytes([high, low])),
                _ => None,
            });
            String::from_utf16_lossy(&units.collect::<Vec<u16>>())
        }
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}

/// `security_cert_store`: the certificates of those whose messages are read.
#[derive(Debug)]
pub struct Trust {
    certificates: BTreeMap<String, Known>,
    digest: Digest,
}

/// What was in signed content.
#[derive(Debug, PartialEq, Eq)]
pub struct Signed {
    /// The type of the payload.
    pub content_type: String,
    /// What was signed.
    pub payload: Vec<u8>,
}

impl Trust {
    /// Reads certificates: for each the name of its file and the PEM text. All that is wrong with them is the error;
    /// like Celery, this takes no certificate that has expired and none twice.
    pub fn new(
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
        digest: Digest,
        now: Timestamp,
    ) -> Result<Self, Vec<String>> {
        let (mut certificates, mut wrong) = (BTreeMap::new(), Vec::new());
        for (file, pem) in files {
            match Known::from_pem(&pem) {
                Err(error) => wrong.push(format!("{file}: {error}")),
                Ok(known) if known.not_after <= now => {
                    wrong.push(format!("{file}: the certificate {:?} has expired", known.id));
                }
                Ok(known) => {
                    let id = known.id.clone();
                    if certificates.insert(id.clone(), known).is_some() {
                        wrong.push(format!("{file}: there is another certificate {id:?}"));
                    }
                }
            }
        }
        match wrong.is_empty() {
            true => Ok(Self { certificates, digest }),
            false => Err(wrong),
        }
    }

    /// The content, if somebody we trust signed it and nobody changed it since.
    pub fn open(&self, body: &[u8], now: Timestamp) -> Result<Signed, ContentError> {
        let malformed = |what: &str| ContentError::Malformed(what.to_owned());
        let packed = BASE64
            .decode(body.trim_ascii())
            .map_err(|_| malformed("the signed content is not base64"))?;
        let mut parts = Parts(&packed);
        let (Some(signer), Some(signature), Some(content_type), Some(_encoding)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("the signed content has not all of its parts"));
        };
        let payload = parts.0;
        let decode = |part: &[u8]| {
            BASE64
                .decode(part)
                .map_err(|_| malformed("a part of the signed content is not base64"))
        };
        let (signer, signature) = (decode(signer)?, decode(signature)?);
        let signer = String::from_utf8_lossy(&signer).into_owned();
        let known = self.certificates.get(&signer).ok_or_else(|| {
            ContentError::Malformed(format!(
                "signed by {signer:.200?}, whose certificate is not in security_cert_store"
            ))
        })?;
        if known.not_after <= now {
            return Err(ContentError::Malformed(format!(
                "signed by {signer:?}, whose certificate has expired"
            )));
        }
        let padding = self.digest.padding(known.key.n().bits(), false);
        let verified = padding.is_some_and(|padding| {
            known
                .key
                .verify(padding, &self.digest.of(payload), &signature)
                .is_ok()
        });
        if !verified {
            return Err(ContentError::Malformed(format!(
                "the signature of {signer:?} is wrong"
            )));
        }
        Ok(Signed {
            content_type: String::from_utf8_lossy(content_type).into_owned(),
            payload: payload.to_vec(),
        })
    }
}

/// What is left after the parts that were taken.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self
            .0
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR)?;
        let (part, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(SEPARATOR.len()..)?;
        Some(part)
    }
}

/// `security_key` and `security_certificate`: who this worker is.
pub struct Signer {
    key: RsaPrivateKey,
    id: String,
    digest: Digest,
}

/// Shows nothing of the key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({:?})", self.id)
    }
}

impl Signer {
    /// Reads a private key (PKCS #8, encrypted or not, or PKCS #1) and the certificate that belongs to it, both PEM.
    pub fn new(
        key: &str,
        password: Option<&str>,
        certificate: &[u8],
        digest: Digest,
    ) -> Result<Self, String> {
        let parsed = match password {
            _ if key.contains("Proc-Type:") => Err(
                "the key is encrypted in the old way of OpenSSL; convert it with `openssl pkcs8 -topk8`"
                    .to_owned(),
            ),
            Some(password) if key.contains("ENCRYPTED PRIVATE KEY") => {
                RsaPrivateKey::from_pkcs8_encrypted_pem(key, password).map_err(|error| error.to_string())
            }
            None if key.contains("ENCRYPTED PRIVATE KEY") => {
                Err("the key is encrypted; set security_key_password".to_owned())
            }
            _ => RsaPrivateKey::from_pkcs8_pem(key)
                .or_else(|error| RsaPrivateKey::from_pkcs1_pem(key).map_err(|_| error.to_string())),
        };
        let key = parsed.map_err(|error| format!("security_key: not a private RSA key in PEM: {error}"))?;
        let known = Known::from_pem(certificate).map_err(|error| format!("security_certificate: {error}"))?;
        if known.key != key.to_public_key() {
            return Err("security_certificate: it does not belong to security_key".into());
        }
        if digest.padding(key.n().bits(), true).is_none() {
            return Err("security_key: the key is too short for security_digest".into());
        }
        Ok(Self {
            key,
            id: known.id,
            digest,
        })
    }

    /// Signs content.
    pub fn sign(&self, payload: &[u8], content_type: &str, encoding: &str) -> Result<Vec<u8>, ContentError> {
        let failed = || ContentError::Refused("the content could not be signed".into());
        let padding = self
            .digest
            .padding(self.key.n().bits(), true)
            .ok_or_else(failed)?;
        let signature = self
            .key
            .sign_with_rng(&mut rsa::rand_core::OsRng, padding, &self.digest.of(payload))
            .map_err(|_| failed())?;
        let (signer, signature) = (BASE64.encode(&self.id), BASE64.encode(signature));
        let parts = [
            signer.as_bytes(),
            signature.as_bytes(),
            content_type.as_bytes(),
            encoding.as_bytes(),
            payload,
        ];
        Ok(BASE64.encode(parts.join(SEPARATOR)).into_bytes())
    }
}
