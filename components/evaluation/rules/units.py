"""Units of quantities: their names in six languages, the dimension that they measure, and how many of its base unit they are."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple


class Unit(NamedTuple):
    """A dimension, and the factor to its base unit."""

    dimension: str
    factor: Decimal


_TABLE = """
length mm .001 millimeter millimeters millimetre millimetres millimètre millimètres milímetro milímetros 毫米
length cm .01 centimeter centimeters centimetre centimetres zentimeter centimètre centimètres centímetro centímetros 厘米
length m 1 meter meters metre metres mètre mètres metro metros 米
length km 1000 kilometer kilometers kilometre kilometres kilomètre kilomètres kilómetro kilómetros quilômetro quilômetros 公里 千米
length in .0254 inch inches zoll pouce pouces pulgada pulgadas polegada polegadas 英寸
length ft .3048 foot feet fuß pied pieds pie pies pé pés 英尺
length mi 1609.344 mile miles meile meilen milla millas milha milhas 英里
mass mg .001 milligram milligrams milligramm milligramme milligrammes miligramo miligramos miligrama miligramas 毫克
mass g 1 gram grams gramm gramme grammes gramo gramos grama gramas 克
mass kg 1000 kilogram kilograms kilo kilos kilogramm kilogramme kilogrammes kilogramo kilogramos quilo quilos quilograma quilogramas 千克 公斤
mass lb 453.59237 lbs pound pounds pfund livre livres libra libras 磅
mass t 1000000 ton tons tonne tonnes tonnen tonelada toneladas 吨
volume ml .001 milliliter milliliters millilitre millilitres millilitres mililitro mililitros 毫升
volume l 1 liter liters litre litres litro litros 升
time ms .001 millisecond milliseconds millisekunden millisecondes milisegundos 毫秒
time s 1 sec secs second seconds sekunde sekunden seconde secondes segundo segundos 秒
time min 60 mins minute minutes minuten minuto minutos 分钟
time h 3600 hr hrs hour hours stunde stunden heure heures hora horas 小时
time d 86400 day days tag tage tagen jour jours día días dia dias 天
time w 604800 week weeks woche wochen semaine semaines semana semanas 周 星期
years y 1 year years jahr jahre jahren an ans année années año años ano anos 年 岁
months mo 1 month months monat monate monaten mois mes meses mês 个月
share % 1 percent prozent pourcent porcentaje
celsius °c 1 celsius
fahrenheit °f 1 fahrenheit
angle ° 1 degree degrees grad degré degrés grado grados grau graus 度
dollar $ 1 dollar dollars usd us$ dólar dólares 美元
euro € 1 euro euros eur 欧元
pound_sterling £ 1 gbp sterling 英镑
yuan ¥ 1 yuan rmb cny 元 块 人民币
real r$ 1 real reais brl
speed km/h 1 kmh kph 公里/小时
miles_an_hour mph 1 mi/h
power w 1 watt watts 瓦
power kw 1000 kilowatt kilowatts 千瓦
voltage v 1 volt volts 伏
frequency hz 1 hertz 赫兹
data mb 1 megabyte megabytes mo
data gb 1000 gigabyte gigabytes go
"""
UNITS: dict[str, Unit] = {}
for _line in _TABLE.strip().splitlines():
    _dimension, _symbol, _factor, *_names = _line.split()
    for _name in (_symbol, *_names):
        UNITS.setdefault(_name, Unit(_dimension, Decimal(_factor)))
PHRASES = {
    "pour cent": "%",
    "por ciento": "%",
    "por cento": "%",
    "per cent": "%",
    "degrees celsius": "°c",
    "grad celsius": "°c",
    "摄氏度": "°c",
}
PHRASES |= {"degrés celsius": "°c", "grados celsius": "°c", "graus celsius": "°c", "degrees fahrenheit": "°f", "miles per hour": "mph"}
PHRASES |= {
    "kilometers per hour": "km/h",
    "km per hour": "km/h",
    "square meters": "m²",
    "° c": "°c",
    "° f": "°f",
    "stundenkilometer": "km/h",
}
