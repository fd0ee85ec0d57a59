//! What the OpenAPI document says of each operation, beside what it knows from the handler.

use aide::{
    axum::routing::ApiMethodDocs,
    openapi::{self, ReferenceOr, Response, Responses, StatusCode},
    transform::TransformOperation,
};
use context_manager_protocol::problem::Code;
use serde_json::json;

use crate::{metrics::Route, openapi::Description};

type Operation<'a> = TransformOperation<'a>;

const MADE: &[(u16, &str)] =
    &[(201, "Stored."), (202, "Journaled: it is on the disk, every read sees it, and it will reach the store.")];
const CHANGED: &[(u16, &str)] = &[(200, "Done."), (202, "Journaled: every read sees it, and it will reach the store.")];
const FOUND: &[(u16, &str)] = &[(200, "Found.")];

pub fn store(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Store),
        summary: "Store a context",
        details: "Storing the same content under the same id, or under the same `Idempotency-Key`, is storing it once.",
        answers: MADE,
        problems: &[Code::IdConflict, Code::DiskFull],
        links: &[Route::Get, Route::Update, Route::Delete],
        example: json!({
            "text": "The user prefers short answers.", "level": "long_term", "session": "chat-42", "actor": "user",
            "metadata": {"topic": "style"},
        }),
    };
    let mut operation = description.of(operation);
    let responses = operation.inner_mut().responses.iter_mut().flat_map(|responses| &mut responses.responses);
    for (status, response) in responses {
        if let (StatusCode::Code(201 | 202), ReferenceOr::Item(response)) = (status, response) {
            let location = ReferenceOr::Reference {
                reference: "#/components/headers/location".to_owned(),
                summary: None,
                description: None,
            };
            response.headers.insert("Location".to_owned(), location);
        }
    }
    operation
}

pub fn store_batch(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::StoreBatch),
        summary: "Store several contexts: all of them, or none",
        details: "When another sidecar stores other content under one of their ids in the same moment, that one is refused (`id-conflict`) and \
                  the others may be stored.",
        answers: MADE,
        problems: &[Code::IdConflict, Code::DiskFull],
        example: json!({"contexts": [
            {"text": "How do I reset it?", "session": "chat-42", "actor": "user"},
            {"text": "Hold the button for five seconds.", "session": "chat-42", "actor": "assistant"},
        ]}),
        ..Description::default()
    };
    description.of(operation)
}

pub fn search(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Search),
        summary: "Retrieve contexts within a token budget",
        details: "What could not take part is named in `degraded`; the answer comes from the rest.",
        answers: FOUND,
        example: json!({
            "query": "How long should an answer be?", "token_budget": 500, "filter": {"topic": {"eq": "style"}},
        }),
        ..Description::default()
    };
    description.of(operation)
}

pub fn context(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Get),
        summary: "Read a context",
        answers: FOUND,
        problems: &[Code::ContextNotFound],
        links: &[Route::Update, Route::Delete],
        ..Description::default()
    };
    description.of(operation)
}

pub fn list(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::List),
        summary: "List contexts, page by page",
        answers: FOUND,
        ..Description::default()
    };
    description.of(operation)
}

pub fn stats(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Stats),
        summary: "Figures of the caller's memory",
        answers: FOUND,
        ..Description::default()
    };
    description.of(operation)
}

pub fn update(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Update),
        summary: "Change a context",
        details: "Metadata are merged; what the context was before is kept for `as_of`.",
        answers: CHANGED,
        problems: &[Code::ContextNotFound, Code::VersionConflict, Code::ContextSuperseded, Code::DiskFull],
        links: &[Route::Get, Route::Delete],
        example: json!({"metadata": {"topic": null, "seen": true}, "if_version": 1}),
    };
    description.of(operation)
}

pub fn delete(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Delete),
        summary: "Delete a context, and what it was before",
        answers: CHANGED,
        problems: &[Code::ContextNotFound, Code::DiskFull],
        ..Description::default()
    };
    description.of(operation)
}

pub fn clear_session(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::ClearSession),
        summary: "Delete the contexts of a session",
        answers: CHANGED,
        problems: &[Code::DiskFull],
        ..Description::default()
    };
    description.of(operation)
}

pub fn delete_matching(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::DeleteMatching),
        summary: "Delete the contexts that match, or count them",
        answers: CHANGED,
        problems: &[Code::DiskFull],
        example: json!({"session": "chat-42", "levels": ["short_term"], "dry_run": true}),
        ..Description::default()
    };
    description.of(operation)
}

pub fn export(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Export),
        summary: "Export everything, line by line",
        details: "The last line has the number of contexts; without it the export is not whole and goes on by `after`.",
        answers: &[(200, "The contexts, in the order of their ids.")],
        ..Description::default()
    };
    description.of(operation)
}

pub fn export_tenant(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::ExportTenant),
        summary: "Export every memory of the tenant, line by line",
        details: "Needs an access rule whose target is the tenant. Each line names the agent or the space that has the context. The last \
            line has the number of contexts; without it the export is not whole and goes on by `after`.",
        answers: &[(200, "The contexts, in the order of their ids.")],
        ..Description::default()
    };
    description.of(operation)
}

pub fn import_tenant(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::ImportTenant),
        summary: "Import an exported tenant",
        details: "Needs an access rule whose target is the tenant. Each line is taken to the memory that it names. Lines that cannot be \
            imported are listed in the answer, and the others are imported.",
        answers: &[(200, "What became of the lines.")],
        problems: &[Code::DiskFull],
        ..Description::default()
    };
    description.of(operation)
}

pub fn import(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::Import),
        summary: "Import what was exported",
        details: "Lines that cannot be imported are listed in the answer, and the others are imported.",
        answers: &[(200, "What became of the lines.")],
        problems: &[Code::DiskFull],
        ..Description::default()
    };
    description.of(operation)
}

/// The stream's opening, which has no handler here.
pub fn stream() -> ApiMethodDocs {
    let mut operation = openapi::Operation {
        responses: Some(Responses { default: Some(ReferenceOr::Item(Response::default())), ..Responses::default() }),
        ..openapi::Operation::default()
    };
    let description = Description {
        route: Some(Route::Stream),
        summary: "Open a WebSocket",
        details: "Its frames carry the same messages and heartbeats; docs/protocol.md describes them.",
        answers: &[(101, "Opened.")],
        problems: &[Code::UpgradeRequired, Code::ParameterInvalid],
        ..Description::default()
    };
    let _ = description.of(TransformOperation::new(&mut operation));
    ApiMethodDocs::new("get", operation)
}

pub fn openapi(operation: Operation<'_>) -> Operation<'_> {
    let description = Description {
        route: Some(Route::OpenApi),
        summary: "This document",
        answers: &[(200, "The document.")],
        ..Description::default()
    };
    description.of(operation)
}
