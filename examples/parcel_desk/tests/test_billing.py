from datetime import date

from parcel_desk import billing


def test_parcel_is_settled_once_its_invoice_is_paid(connection):
    billing.bill(connection, "PD-100", 790)
    billing.pay(connection, "PD-100")
    assert billing.is_settled(connection, "PD-100")


def test_open_invoice_is_not_settled(connection):
    billing.bill(connection, "PD-100", 790)
    assert not billing.is_settled(connection, "PD-100")


def test_invoice_is_due_after_two_weeks():
    assert billing.due_on(date(2024, 3, 1)) == date(2024, 3, 15)
