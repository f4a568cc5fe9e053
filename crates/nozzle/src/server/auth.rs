//! Who may ask: bearer tokens, where the configuration names any.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use std::sync::Arc;
use tonic::Status;

use super::error::{ApiError, ErrorCode};
use crate::config::{Auth, Role};

/// How logins are packed: some clients leave the padding out.
const LOGIN: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What lets requests in.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    tokens: Arc<Vec<(String, Role)>>,
}

impl Gate {
    /// A gate for the configured tokens; open where there are none.
    pub fn new(auth: &Auth) -> anyhow::Result<Self> {
        Ok(Self { tokens: Arc::new(auth.filled_in()?) })
    }

    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Lets in who has a token of the role, or of one that includes it.
    pub fn check(&self, headers: &HeaderMap, needed: Role) -> Result<(), ApiError> {
        if self.is_open() {
            return Ok(());
        }
        let refused = |code, message: &str| Err(ApiError::new(code, message));
        let Some(given) = token_of(headers) else {
            return refused(
                ErrorCode::Unauthorized,
                "a token is needed: send `Authorization: Bearer <token>`",
            );
        };
        // Every token is compared, so that the time tells nothing of which of them are alike.
        let known = self.tokens.iter().fold(None, |known, (token, role)| {
            if is_same(token.as_bytes(), given.as_bytes()) { Some(*role) } else { known }
        });
        match known {
            None => refused(ErrorCode::Unauthorized, "the token is not one of this server's"),
            Some(role) if role.includes(needed) => Ok(()),
            Some(_) => refused(ErrorCode::Forbidden, "the token's role does not allow this"),
        }
    }

    /// As [`Self::check`], for gRPC.
    pub fn check_grpc(&self, headers: &HeaderMap, needed: Role) -> Result<(), Status> {
        Ok(self.check(headers, needed)?)
    }
}

/// The token that a request carries: a bearer token, or the password of a login, whatever its name.
pub fn token_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(token.trim().to_owned());
    }
    let is_basic = scheme.eq_ignore_ascii_case("basic");
    let login = is_basic.then(|| LOGIN.decode(token.trim()).ok()).flatten()?;
    let (_, password) = std::str::from_utf8(&login).ok()?.split_once(':')?;
    Some(password.to_owned())
}

/// Compares in a time that only the lengths decide.
fn is_same(known: &[u8], given: &[u8]) -> bool {
    let differs = known.iter().zip(given).fold(0, |differs, (known, given)| differs | (known ^ given));
    known.len() == given.len() && differs == 0
}

/// A middleware that lets in who may query.
pub async fn queries(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.check(request.headers(), Role::Query) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_token_opens_what_its_role_includes() {
        let tokens = vec![("reader".to_owned(), Role::Query), ("boss".to_owned(), Role::Admin)];
        let gate = Gate { tokens: Arc::new(tokens) };
        let code = |value: Option<&str>, needed| {
            let value =
                value.map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).expect("a value")));
            gate.check(&value.into_iter().collect(), needed).err().map(|error| error.code)
        };
        assert_eq!(code(Some("Bearer reader"), Role::Query), None);
        assert_eq!(code(Some("bearer boss"), Role::Query), None);
        assert_eq!(code(Some("Bearer boss"), Role::Admin), None);
        assert_eq!(code(Some("Bearer reader"), Role::Admin), Some(ErrorCode::Forbidden));
        // me:reader, and me:reade
        assert_eq!(code(Some("Basic bWU6cmVhZGVy"), Role::Query), None);
        assert_eq!(code(Some("Basic bWU6cmVhZGU="), Role::Query), Some(ErrorCode::Unauthorized));
        assert_eq!(code(Some("Basic bWU6cmVhZGU"), Role::Query), Some(ErrorCode::Unauthorized));
        // x:reader, without its padding
        assert_eq!(code(Some("Basic eDpyZWFkZXI"), Role::Query), None);
        for none in [None, Some("Bearer bos"), Some("Bearer bosss"), Some("Basic boss"), Some("boss")] {
            assert_eq!(code(none, Role::Query), Some(ErrorCode::Unauthorized), "{none:?}");
        }
        assert!(Gate::default().check(&HeaderMap::new(), Role::Admin).is_ok());
    }
}
