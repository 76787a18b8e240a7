SELECT format('%s: %s invoices of %s months, %s kWh, %s EUR',
	to_char(:'to'::timestamptz AT TIME ZONE 'Europe/Berlin', 'DD Mon HH24:MI'),
	count(*), count(DISTINCT month), sum(kwh), sum(amount))
FROM monthly_usage;
