//! The routes of the server by name, as metrics and logs call them: few, whatever is requested.

/// One of the places a request can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Files,
    Upload,
    Bucket,
    Uploads,
    Status,
    Events,
    Stages,
    ReadToken,
    AllEvents,
    /// Everything below it.
    Webhooks,
    Alive,
    Ready,
    Metrics,
    Other,
}

impl Route {
    pub(crate) const ALL: [Self; 14] = [
        Self::Files,
        Self::Upload,
        Self::Bucket,
        Self::Uploads,
        Self::Status,
        Self::Events,
        Self::Stages,
        Self::ReadToken,
        Self::AllEvents,
        Self::Webhooks,
        Self::Alive,
        Self::Ready,
        Self::Metrics,
        Self::Other,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Files => "/files",
            Self::Upload => "/files/{id}",
            Self::Bucket => "/upload/storage/v1/b/{bucket}/o",
            Self::Uploads => "/api/v1/uploads",
            Self::Status => "/api/v1/uploads/{id}",
            Self::Events => "/api/v1/uploads/{id}/events",
            Self::Stages => "/api/v1/uploads/{id}/stages",
            Self::ReadToken => "/api/v1/uploads/{id}/read-token",
            Self::AllEvents => "/api/v1/events",
            Self::Webhooks => "/api/v1/webhooks",
            Self::Alive => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::Other => "other",
        }
    }

    /// The route of a path, as the router reads it: decoded.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/files" | "/files/" => return Self::Files,
            "/api/v1/uploads" => return Self::Uploads,
            "/api/v1/events" => return Self::AllEvents,
            "/api/v1/webhooks" => return Self::Webhooks,
            "/healthz" => return Self::Alive,
            "/readyz" => return Self::Ready,
            "/metrics" => return Self::Metrics,
            _ => {}
        }
        if let Some(id) = path.strip_prefix("/files/") {
            return if id.contains('/') { Self::Other } else { Self::Upload };
        }
        if let Some(rest) = path.strip_prefix("/api/v1/uploads/") {
            return match rest.split_once('/') {
                None if rest.is_empty() => Self::Other,
                None => Self::Status,
                Some((_, "events")) => Self::Events,
                Some((_, "stages")) => Self::Stages,
                Some((_, "read-token")) => Self::ReadToken,
                Some(_) => Self::Other,
            };
        }
        let bucket = path.strip_prefix("/upload/storage/v1/b/").and_then(|rest| rest.strip_suffix("/o"));
        match bucket {
            Some(bucket) if !bucket.is_empty() && !bucket.contains('/') => Self::Bucket,
            _ if path.starts_with("/api/v1/webhooks/") => Self::Webhooks,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_known_by_its_own_pattern() {
        for (index, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
            assert_eq!(Route::of(route.name()), route, "{route:?}");
        }
    }

    /// The patterns are read from the source of the route table, so that one which is added is judged here too.
    #[test]
    fn every_pattern_of_the_route_table_has_a_name() {
        let calls = include_str!("../front/mod.rs").split("web::resource(").skip(1);
        let call = |text: &'static str| text.split(')').next().unwrap_or_default();
        let quoted = |text: &'static str| text.split('"').skip(1).step_by(2);
        let patterns = calls.map(call).flat_map(quoted).collect::<Vec<_>>();
        assert!(patterns.len() > 12, "{patterns:?}");
        for pattern in patterns {
            assert_ne!(Route::of(&pattern.replace(['{', '}'], "")), Route::Other, "{pattern}");
        }
    }

    #[test]
    fn whatever_is_requested_there_is_a_route_for_it() {
        for (path, route) in [
            ("/files/", Route::Files),
            ("/files/a.mp4", Route::Upload),
            ("/files/a/b", Route::Other),
            ("/api/v1/uploads/x/y/stages", Route::Other),
            ("/api/v1/uploads/", Route::Other),
            ("/api/v1/webhooks/endpoints/a/test", Route::Webhooks),
            ("/api/v1/webhooks2", Route::Other),
            ("/upload/storage/v1/b//o", Route::Other),
            ("/", Route::Other),
            ("", Route::Other),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }
}
