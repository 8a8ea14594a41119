//! Refusals of Entra and of the API as the field has seen them: class, owner and advice, and that other tenants keep their
//! rhythm.

use incident_sync::error::{Diagnosis, Retry};
use incident_sync::store::runs::Outcome;
use incident_sync::sync::engine::TenantResult;
use simulator::{Endpoint, ScriptedReply};

use crate::support::field_case;
use crate::support::world::{World, id, spec};

fn diagnosis(result: &TenantResult) -> &Diagnosis {
    result.diagnosis.as_ref().expect("the run failed")
}

/// Class and owner of a failed run.
fn judged(result: &TenantResult) -> (&'static str, &'static str) {
    let diagnosis = diagnosis(result);
    (diagnosis.class.as_str(), diagnosis.owner.as_str())
}

/// Two tenants were read; the second one needs a new token, which Entra answers like this.
async fn run_with_answer(world: &World, answer: ScriptedReply) -> TenantResult {
    world.clear_parking().await;
    world.service().script(id(2), Endpoint::Token, vec![answer]);
    world.engine.services().tokens.forget(&world.tenants()[1]).await;
    let mut results = world.run().await;
    assert_eq!(results[0].outcome, Outcome::Ok, "the other tenant keeps its rhythm");
    results.remove(1)
}

async fn two_tenants() -> World {
    let world = World::with(vec![spec(1, 5), spec(2, 5)]).await;
    world.successful_run().await;
    world
}

#[tokio::test]
async fn blocked_directory_keeps_data_under_every_word() {
    let world = two_tenants().await;
    for answer in field_case::answers("01", "answers_for_B") {
        let result = run_with_answer(&world, answer).await;
        assert_eq!(judged(&result), ("directory_blocked", "customer_admin"));
        assert_eq!((result.outcome, diagnosis(&result).retry), (Outcome::Parked, Retry::OnceFixed));
        let advice = &diagnosis(&result).advice;
        for word in ["blocked", "reactivate", "data stays", "tenant export", "tenant purge"] {
            assert!(advice.contains(word), "{word}: {advice}");
        }
        assert!(!advice.contains("consent"), "{advice}");
        let minutes = world
            .number("SELECT extract(minutes FROM max(next_attempt_at) - now())::bigint FROM defender.sync_state")
            .await;
        assert!(minutes >= 45, "tried about hourly: {minutes}");
    }
    assert_eq!(world.number("SELECT count(*) FROM defender.incidents").await, 10);
}

#[tokio::test]
async fn required_assignment_is_one_class_and_named() {
    let world = two_tenants().await;
    for answer in field_case::answers("07", "answers_for_B") {
        let result = run_with_answer(&world, answer).await;
        assert_eq!(judged(&result), ("assignment_required", "customer_admin"));
        let advice = &diagnosis(&result).advice;
        assert!(advice.contains("Assignment required?"), "{advice}");
    }
}

#[tokio::test]
async fn refused_scope_is_operators_and_named() {
    let world = two_tenants().await;
    let [scope, resource] = &field_case::answers("06", "answers")[..] else {
        panic!("two answers")
    };
    let result = run_with_answer(&world, scope.clone()).await;
    assert_eq!(judged(&result), ("tenant_config", "operator"));
    let advice = &diagnosis(&result).advice;
    assert!(advice.contains(&world.tenants()[1].endpoints.scope), "{advice}");
    // With the scope of the API the customer lacks the service.
    let result = run_with_answer(&world, resource.clone()).await;
    assert_eq!(judged(&result), ("not_licensed", "customer_admin"));
}

#[tokio::test]
async fn conditional_access_names_address_and_ends() {
    let world = two_tenants().await;
    let answer = field_case::answers("08", "answers_for_B").remove(0);
    let result = run_with_answer(&world, answer).await;
    assert_eq!(judged(&result), ("conditional_access", "customer_admin"));
    let advice = &diagnosis(&result).advice;
    for word in ["location", "address", "connects from 127.0.0.1", "NAT"] {
        assert!(advice.contains(word), "{word}: {advice}");
    }
    world.clear_parking().await;
    world.successful_run().await;
    world.assert_truth().await;
}

#[tokio::test]
async fn unknown_code_is_operators_with_first_sentence() {
    let world = two_tenants().await;
    for word in ["interaction_required", "unauthorized_client", "invalid_grant", "consent_required"]
    {
        let result = run_with_answer(&world, ScriptedReply::entra(400, word, 4_242_424)).await;
        assert_eq!(judged(&result), ("unknown_entra_error", "operator"), "{word}");
        let advice = &diagnosis(&result).advice;
        assert!(advice.contains("AADSTS4242424"), "{advice}");
        assert!(advice.contains("\"Scripted by the simulator\""), "{advice}");
    }
}

#[tokio::test]
async fn refusal_with_role_is_licence_not_permission() {
    // Each answer is the first that its tenant sees, so no API seems to end.
    let answers = field_case::answers("12", "answers");
    let world = World::with((1..=6).map(|number| spec(number, 5)).collect()).await;
    for (number, answer) in (1..).zip(&answers) {
        let twice = vec![answer.clone(); 4];
        world.service().script(id(number), Endpoint::Incidents, twice);
    }
    let results = world.run().await;
    for (row, result) in (1..).zip(&results) {
        let advice = &diagnosis(result).advice;
        match row {
            1..=4 => {
                assert_eq!(judged(result), ("not_licensed", "customer_admin"), "{row}: {advice}");
                assert_eq!(result.outcome, Outcome::Parked, "{row}: tried hourly");
                assert!(!advice.contains("grant") && !advice.contains("proxy"), "{row}: {advice}");
                assert!(advice.contains("license"), "{row}: {advice}");
            }
            5 => assert_eq!(judged(result), ("forbidden", "customer_admin"), "{row}: {advice}"),
            _ => {
                assert_eq!(judged(result).0, "bad_reply", "{row}: {advice}");
                assert!(advice.contains("network path"), "{row}: {advice}");
            }
        }
    }
}
