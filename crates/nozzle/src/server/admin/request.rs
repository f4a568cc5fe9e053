//! What requests carry: parameters, bodies, pages.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;

use super::{
    super::http,
    error::{AdminError, Code},
};

/// The most that a list gives at once.
const MAX_LIMIT: u32 = 1000;

/// What a list gives where nobody says how much.
const DEFAULT_LIMIT: u32 = 50;

/// How much of a list is wanted.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Limit {
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

impl Limit {
    /// The number, within what is allowed.
    pub fn get(self) -> Result<u32, AdminError> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(AdminError::new(Code::InvalidRequest, format!("`limit` must be from 1 to {MAX_LIMIT}"))),
        }
    }
}

/// Parameters of the query string.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        Ok(Self(Query::<T>::from_request_parts(parts, state).await?.0))
    }
}

/// Parts of the path.
#[derive(Debug)]
pub struct InPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path))
            .map_err(|rejection| AdminError::new(Code::InvalidRequest, rejection.body_text()))
    }
}

/// A body of JSON; an empty one is an empty object.
#[derive(Debug)]
pub struct Payload<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Payload<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AdminError> {
        let bytes = http::body(request.into_body()).await?;
        let text = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes.as_ref() };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| AdminError::new(Code::InvalidPayload, format!("the body is not valid: {error}")))
    }
}

/// An id in the path: a number of the database's.
pub fn id(text: &str, code: Code) -> Result<i64, AdminError> {
    text.parse().map_err(|_| AdminError::new(code, format!("`{text}` is not an id; ids are whole numbers")))
}

/// A page of what is listed in full: the items after the cursor, and the next cursor where more follow.
pub fn page<T, K: PartialOrd>(
    all: Vec<T>,
    after: Option<&K>,
    limit: u32,
    key: impl Fn(&T) -> K,
) -> (Vec<T>, Option<K>) {
    let limit = limit as usize;
    let mut rest = all.into_iter().filter(|item| after.is_none_or(|after| key(item) > *after));
    let items: Vec<T> = rest.by_ref().take(limit).collect();
    let next = items.last().map(&key).filter(|_| rest.next().is_some());
    (items, next)
}

/// The next cursor of a page that was asked for with one item more than it gives.
pub fn cut<T, K>(items: &mut Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> Option<K> {
    let has_more = items.len() > limit as usize;
    items.truncate(limit as usize);
    items.last().filter(|_| has_more).map(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_and_the_last_one_says_so() {
        let all = || (1..=5).collect::<Vec<u32>>();
        assert_eq!(page(all(), None, 2, |n| *n), (vec![1, 2], Some(2)));
        assert_eq!(page(all(), Some(&2), 2, |n| *n), (vec![3, 4], Some(4)));
        assert_eq!(page(all(), Some(&4), 2, |n| *n), (vec![5], None));
        assert_eq!(page(all(), Some(&3), 2, |n| *n), (vec![4, 5], None));
        let mut three = vec![1, 2, 3];
        assert_eq!((cut(&mut three, 2, |n| *n), three), (Some(2), vec![1, 2]));
        let mut two = vec![1, 2];
        assert_eq!((cut(&mut two, 2, |n| *n), two), (None, vec![1, 2]));
    }
}
