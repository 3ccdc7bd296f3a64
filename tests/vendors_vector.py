"""Kling's own example of a signed callback (API reference, callbacks: signature)."""

SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
SIGNED_AT = 1781080794
HEADERS = {
    "Webhook-Id": "9876543210",
    "Webhook-Timestamp": str(SIGNED_AT),
    "Webhook-Signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}
BODY = (
    b'{"id":"1234567890","status":"succeeded","message":"",'
    b'"create_time":1781080778802,"update_time":1781080794151}'
)
