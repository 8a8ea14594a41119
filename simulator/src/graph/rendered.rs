//! An incident in Graph's schema, prepared for responses.

use bytes::Bytes;
use uuid::Uuid;

use super::behaviour::GraphBehaviour;
use super::enums::Spelling;
use super::fields::View;
use super::{fields, render_incident};
use crate::random::{mix, seed_of};
use crate::store::{Form, Incident};

/// The properties of tenant and request that a rendering depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) tenant: Uuid,
    pub(super) behaviour: GraphBehaviour,
    /// The request asks for the names of new enum members.
    pub(super) asks_for_new_members: bool,
}

impl Variant {
    pub(super) fn spelling(&self) -> Spelling {
        Spelling {
            keeps_new_members: self.asks_for_new_members && !self.behaviour.ignores_prefer,
            by_schema: self.behaviour.differs,
        }
    }

    /// A number determined by tenant and text, for values that Defender lacks.
    pub(super) fn seed(&self, text: &str) -> u64 {
        text.bytes().fold(seed_of(self.tenant), |seed, byte| mix(seed ^ u64::from(byte)))
    }
}

/// The texts of one version of an incident.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// The incident without its alerts and without its closing brace; the whole text if it is not an object.
    head: Bytes,
    alerts: Vec<Bytes>,
    /// The incident with alerts, if it cannot be assembled from `head` and `alerts`.
    whole: Option<Bytes>,
    is_object: bool,
}

impl Rendered {
    /// The rendering of this variant, made once for each version of an incident.
    pub(super) fn of<'a>(incident: &'a Incident, variant: &Variant) -> &'a Self {
        let place = usize::from(variant.asks_for_new_members);
        incident.rendered[place].get_or_init(|| Self::new(incident, variant).into())
    }

    fn new(incident: &Incident, variant: &Variant) -> Self {
        let Some(object) = std::str::from_utf8(&incident.text).ok().and_then(View::parse) else {
            let (head, whole) = (incident.text.clone(), Some(incident.text.clone()));
            return Self { head, alerts: Vec::new(), whole, is_object: false };
        };
        match incident.form {
            Form::Graph => Self::as_served(&object, &incident.text),
            Form::Defender => Self::converted(&object, variant),
        }
    }

    fn as_served(object: &View<'_>, text: &Bytes) -> Self {
        let head = object.iter().filter(|(key, _)| *key != "alerts");
        let head = head.fold(fields::Fields::new(), |head, (key, json)| head.raw(key, Some(json)));
        let alerts = object.raw("alerts").and_then(fields::elements).unwrap_or_default();
        let alerts = alerts.iter().map(|alert| Bytes::copy_from_slice(alert.get().as_bytes()));
        let (head, alerts) = (head.unclosed().into(), alerts.collect());
        Self { head, alerts, whole: Some(text.clone()), is_object: true }
    }

    fn converted(object: &View<'_>, variant: &Variant) -> Self {
        let head = render_incident::head(object, variant);
        let alerts = match object.iter().find(|(key, _)| *key == "alerts") {
            Some((_, json)) => fields::elements(json),
            None => Some(Vec::new()),
        };
        let Some(alerts) = alerts else {
            // A value of `alerts` that is not an array is served unchanged.
            let whole = format!("{head},\"alerts\":{}}}", object.raw("alerts").unwrap_or("null"));
            let (head, whole) = (head.into(), Some(whole.into()));
            return Self { head, alerts: Vec::new(), whole, is_object: true };
        };
        let incident = render_incident::Parent::new(object, variant);
        let alerts = alerts.iter().enumerate().map(|(place, alert)| {
            let text = match View::parse(alert.get()) {
                Some(alert) => incident.alert(&alert, place),
                None => alert.get().to_owned(),
            };
            Bytes::from(text)
        });
        Self { alerts: alerts.collect(), head: head.into(), whole: None, is_object: true }
    }

    pub(super) fn alerts(&self) -> &[Bytes] {
        &self.alerts
    }

    /// The incident without alerts.
    pub(super) fn plain(&self) -> Vec<u8> {
        let mut text = self.head.to_vec();
        if self.is_object {
            text.push(b'}');
        }
        text
    }

    /// The incident with its alerts, or with the first ones and a link to the others.
    pub(super) fn expanded(&self, id: i64, alerts_max: Option<usize>, base: &str) -> Vec<u8> {
        if let Some(whole) = &self.whole {
            return whole.to_vec();
        }
        let shown = alerts_max.unwrap_or(usize::MAX).min(self.alerts.len());
        let context = format!(
            r#","alerts@odata.context":"https://graph.microsoft.com/v1.0/$metadata#security/incidents('{id}')/alerts","alerts":["#
        );
        let length: usize = self.alerts.iter().map(|alert| alert.len() + 1).sum();
        let mut text = Vec::with_capacity(self.head.len() + context.len() + length + 2);
        text.extend_from_slice(&self.head);
        text.extend_from_slice(context.as_bytes());
        for (place, alert) in self.alerts.iter().take(shown).enumerate() {
            if place > 0 {
                text.push(b',');
            }
            text.extend_from_slice(alert);
        }
        text.push(b']');
        if shown < self.alerts.len() {
            let link = format!(
                r#","alerts@odata.nextLink":"{base}v1.0/security/incidents/{id}/alerts?%24skip={shown}""#
            );
            text.extend_from_slice(link.as_bytes());
        }
        text.push(b'}');
        text
    }
}
